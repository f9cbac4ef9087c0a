-- Whether a database, tablespace, subscription or prepared transaction is there.
select case %(kind)s::text
           when 'database'     then exists (select from pg_database where datname = %(name)s)
           when 'tablespace'   then exists (select from pg_tablespace where spcname = %(name)s)
           when 'subscription' then exists (
               select from pg_subscription as s
                 join pg_database as d on d.oid = s.subdbid
                where s.subname = %(name)s and d.datname = current_database())
           else exists (
               select from pg_prepared_xacts
                where gid = %(gid)s and database = current_database())
       end as there
