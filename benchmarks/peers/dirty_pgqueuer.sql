-- @done
select 0 as n
