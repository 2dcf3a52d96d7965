-- bars_with_funding(symbol, interval): each bar with the last regular settlement at or before its close, never a later one.
-- The second half of the UNION is empty. It is there because DuckDB 2.0 estimates a series by the size of its first file and,
-- where that is small, turns the ASOF join into nested loops: minutes instead of a tenth of a second.
CREATE OR REPLACE MACRO bars_with_funding(symbol, "interval", market := 'um') AS TABLE
SELECT market::VARCHAR AS market, symbol::VARCHAR AS symbol, "interval"::VARCHAR AS "interval", $stored,
  f.funding_time, f.funding_rate
FROM (
  SELECT $stored FROM read_parquet($series, hive_partitioning = false) AS b
  UNION ALL
  SELECT $unknown FROM range(100000) AS n(i) WHERE n.i < 0
) AS b
ASOF LEFT JOIN (
  SELECT s.funding_time, s.funding_rate
  FROM $funding AS s
  WHERE s.market = market AND s.symbol = symbol AND coalesce(s.rate_type, 'Regular') = 'Regular'
) AS f ON b.close_time >= f.funding_time
ORDER BY b.open_time;
