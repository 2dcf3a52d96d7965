-- resample(symbol, interval, to_interval): coarser bars on the exchange's own grids: weeks from Monday, 3d from 1970-01-02,
-- calendar months. Closed buckets only: none that ends after the last stored bar.
CREATE OR REPLACE MACRO resample(symbol, "interval", to_interval, market := 'um') AS TABLE
SELECT
  market::VARCHAR AS market,
  symbol::VARCHAR AS symbol,
  to_interval::VARCHAR AS "interval",
  g.bucket AS open_time,
  arg_min(g.open, g.open_time) AS open,
  max(g.high) AS high,
  min(g.low) AS low,
  arg_max(g.close, g.open_time) AS close,
  sum(g.volume) AS volume,
  g.bucket + $to_width - INTERVAL 1 MILLISECOND AS close_time,
  sum(g.quote_volume) AS quote_volume,
  sum(g.count)::BIGINT AS count,
  sum(g.taker_buy_volume) AS taker_buy_volume,
  sum(g.taker_buy_quote_volume) AS taker_buy_quote_volume,
  count(*) AS bars,
  ((epoch_ms(g.bucket + $to_width) - epoch_ms(g.bucket)) // $step)::BIGINT AS bars_expected
FROM (
  SELECT
    b.*,
    time_bucket(
      $to_width,
      b.open_time,
      CASE to_interval WHEN '3d' THEN TIMESTAMP '1970-01-02' WHEN '1w' THEN TIMESTAMP '1970-01-05' ELSE TIMESTAMP '1970-01-01' END
    ) AS bucket
  FROM read_parquet(
    -- Refused here, because the path is worked out before anything is read, and nothing can optimise it away.
    CASE
      WHEN $step <= 86400000 AND (to_interval = '1M' OR ($to_step > $step AND $to_step % $step = 0)) THEN $series
      ELSE error('resample: bars of ' || "interval" || ' do not fill bars of ' || to_interval
        || '; to_interval must be a multiple of interval, one of $targets')
    END,
    hive_partitioning = false
  ) AS b
) AS g
GROUP BY g.bucket
QUALIFY g.bucket + $to_width <= max(max(g.close_time)) OVER () + INTERVAL 1 MILLISECOND
ORDER BY g.bucket;
