-- Everything as a new session would find it: a SET of one file is none of the next one's. And
-- the server looks every second whether the runner still lives, where its platform can tell:
-- a statement of a runner that was killed must not go on for hours, its locks held.
reset session authorization;
reset all;
do $$
begin
    perform pg_catalog.set_config('client_connection_check_interval', '1s', false);
exception
    when others then null;
end
$$;
