"""The PostgreSQL side of the worker: pool, writer, migrations, partitions."""
