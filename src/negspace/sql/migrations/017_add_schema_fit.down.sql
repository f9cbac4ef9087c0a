-- The services no longer see which migrations are applied.

drop function applied_migrations();
