-- gaps(symbol, interval): what is absent after the first bar: between two bars by content, after the last bar by the footers.
-- verdict: `missing` where a source answered for the whole gap, `outage` where REST and the archive did, `not_listed` where that
-- lasts for a week or more, as between two contracts of one name; NULL where a part of it was not asked.
CREATE OR REPLACE MACRO gaps(symbol, "interval", market := 'um') AS TABLE
WITH footers AS (
  SELECT from_json(decode(m.value), '$footer') AS etl
  FROM parquet_kv_metadata($series) AS m
  WHERE decode(m.key) = 'etl'
),
said AS (
  SELECT a.c.source AS kind, epoch_ms(a.c.start) AS start, epoch_ms(a.c."end") AS stop
  FROM (SELECT unnest(r.etl.coverage) AS c FROM footers AS r) AS a
  UNION ALL
  SELECT 'hole', epoch_ms(h.hole[1]), epoch_ms(h.hole[2])
  FROM (SELECT unnest(r.etl.holes) AS hole FROM footers AS r) AS h
),
asked AS ( -- without what several files say of the same time: each adds up once
  SELECT i.kind, min(i.start) AS start, max(i.stop) AS stop
  FROM (
    SELECT n.*, sum(n.fresh) OVER (PARTITION BY n.kind ORDER BY n.start, n.stop) AS island
    FROM (
      SELECT s.*, coalesce(s.start > max(s.stop) OVER (
        PARTITION BY s.kind ORDER BY s.start, s.stop ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), true)::INT AS fresh
      FROM said AS s
    ) AS n
  ) AS i
  GROUP BY i.kind, i.island
),
bars AS (
  SELECT b.open_time + $width AS after, lead(b.open_time) OVER (ORDER BY b.open_time) AS next
  FROM read_parquet($series, hive_partitioning = false) AS b
),
absent AS (
  SELECT s.after AS gap_start, coalesce(s.next, (SELECT max(a.stop) FROM asked AS a WHERE a.kind = 'hole')) AS gap_end
  FROM bars AS s
),
judged AS (
  SELECT g.gap_start, g.gap_end, epoch_ms(g.gap_end) - epoch_ms(g.gap_start) AS length,
    coalesce(sum($overlap) FILTER (a.kind = 'hole'), 0) AS hole,
    coalesce(sum($overlap) FILTER (a.kind = 'rest'), 0) AS rest,
    coalesce(sum($overlap) FILTER (a.kind = 'archive'), 0) AS archive
  FROM absent AS g LEFT JOIN asked AS a ON a.start < g.gap_end AND a.stop > g.gap_start
  WHERE g.gap_start < g.gap_end
  GROUP BY g.gap_start, g.gap_end
)
SELECT j.gap_start, j.gap_end,
  CASE WHEN "interval" = '1M' THEN datediff('month', j.gap_start, j.gap_end) ELSE j.length // $step END AS missing,
  CASE
    WHEN j.hole < j.length THEN NULL
    WHEN j.rest < j.length OR j.archive < j.length THEN 'missing'
    WHEN j.length >= $between THEN 'not_listed'
    ELSE 'outage'
  END AS verdict
FROM judged AS j
ORDER BY j.gap_start;
