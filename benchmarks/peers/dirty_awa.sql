-- Its segments of jobs are written by its own code alone: awa meets the old snapshot, and no
-- finished or dead jobs.
-- @done
select 0 as n
