alter function near_hashes(bigint, bigint, integer) reset cpu_index_tuple_cost;
