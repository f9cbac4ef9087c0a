-- Everything as a new session would find it: a SET of one file is none of the next one's.
reset session authorization;
reset all;
