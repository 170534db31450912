import asyncio
import psycopg
from app.database import migrations
from conftest import BEFORE

def test_up(migrated, database):
    with psycopg.connect(database) as c:
        print(c.execute("select schemaname, count(*) from pg_tables group by 1").fetchall())
