-- bars(symbol, interval): the rows of `klines` of one series; lists and reads its folder only.
CREATE OR REPLACE MACRO bars(symbol, "interval", market := 'um') AS TABLE
SELECT market::VARCHAR AS market, symbol::VARCHAR AS symbol, "interval"::VARCHAR AS "interval", $stored
FROM read_parquet($series, hive_partitioning = false) AS b;
