"""The database's schema, step by step, applied at start by `catalogue/migrate.py`.

To change the schema: change `catalogue/tables.py`, add `versions/vNNNN_<what>.py` with the next `revision`,
and run the tests, which compare what the steps make with the tables. Released steps stay as they are.
"""
