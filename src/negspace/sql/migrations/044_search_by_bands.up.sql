-- Near hashes are looked up by owner and band, whatever the planner thinks of an owner. Its one plan
-- is for an owner of average size: where most have few images, it read all hashes of each owner, also
-- of one who has a million. A row of an index that is read costs it more now than a look-up.

alter function near_hashes(bigint, bigint, integer) set cpu_index_tuple_cost = 1;
