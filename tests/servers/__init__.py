"""Real servers for the tests, started on free ports in temporary folders and gone with the test process.

Each module has a class to run one and a session fixture that lends it: `kafka`, `clickhouse`, `postgres`,
`redis_server`; `databases` makes a database of its own for each test. A server that already runs is used
instead when its address is in the environment: OPENRIDE_TEST_KAFKA (`host:port`), OPENRIDE_TEST_CLICKHOUSE
(`clickhouse://…`), OPENRIDE_TEST_POSTGRES (`postgresql://…`), OPENRIDE_TEST_REDIS (`redis://…`). What has to
be downloaded is kept in the folder OPENRIDE_TEST_CACHE (`~/.cache/openride-analytics-tests`).
"""
