-- The statement that makes an empty database like the present one in encoding and locale.
-- The columns that tell the locale's provider came with PostgreSQL 15 and were renamed in 17.
select format('create database %%I template template0 encoding %%L', %(name)s::text,
              pg_encoding_to_char(d.encoding))
       || format(' lc_collate %%L lc_ctype %%L', d.datcollate, d.datctype)
       || case to_jsonb(d) ->> 'datlocprovider'
          when 'i' then format(' locale_provider icu icu_locale %%L',
                               coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'))
          when 'b' then format(' locale_provider builtin builtin_locale %%L',
                               to_jsonb(d) ->> 'datlocale')
          when 'c' then ' locale_provider libc'
          else '' end
       || case when %(owner)s::text <> current_user
               then format(' owner %%I', %(owner)s::text) else '' end as statement
  from pg_catalog.pg_database as d
 where d.datname = current_database()
