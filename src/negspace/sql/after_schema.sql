
-- The partitions of the months are made by a function and are no part of the schema; without
-- this month's, nothing can be inserted.
select public.ensure_partitions();
