-- Which of these functions give a value of its own for each row.
select distinct p.proname::text as name
  from pg_proc as p
 where p.provolatile = 'v' and p.proname = any (%(functions)s)
