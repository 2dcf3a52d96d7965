-- The part of `ledger` that tells of $dataset: one row a series and cell (a UTC day; a calendar month for intervals from 1d on),
-- from the footers alone; the rows of funding, which has no grid, are counted.
--   life      covered time from the first row on; `expected` counts its bars, of which `missing` are holes
--   source    of the answer that covers most of the cell; checked_at is the day of the latest answer
--   verdict   not_listed: all that was asked lies before the first row. missing, outage: bars are absent from what one, or every,
--             source answered. partial: not all of the cell was asked, or the series began in it. else complete.
--             `lost` is never said here: what could not be asked leaves no trace in a file.
SELECT * FROM (
WITH files AS (
  SELECT f.*, f.etl.market AS market, f.etl.symbol AS symbol, f.etl.interval AS interval, g.step, g.phase,
    epoch_ms(f.period) AS low, epoch_ms(f.period + CASE length(f.name) WHEN 4 THEN INTERVAL 1 YEAR ELSE INTERVAL 1 MONTH END) AS high,
    $begin AS begin
  FROM (
    SELECT m.file_name, from_json(decode(m.value), '$footer') AS etl, parse_filename(m.file_name, true) AS name,
      try_cast(parse_filename(m.file_name, true)[:4] || coalesce(nullif(parse_filename(m.file_name, true)[5:], ''), '-01') || '-01' AS TIMESTAMP) AS period
    FROM parquet_kv_metadata($files) AS m
    WHERE decode(m.key) = 'etl'
  ) AS f
  LEFT JOIN (VALUES $grids) AS g(name, step, phase) ON g.name = f.etl.interval
  LEFT JOIN ($first) AS r ON $first_of
  WHERE f.period IS NOT NULL
),
answers AS (
  SELECT a.file_name, a.begin, a.c.source, greatest(a.c.start, a.low) AS start, least(a.c."end", a.high) AS stop, a.c
  FROM (SELECT *, unnest(etl.coverage) AS c FROM files) AS a
  WHERE greatest(a.c.start, a.low) < least(a.c."end", a.high)
),
holes AS (
  SELECT h.file_name, greatest(h.hole[1], h.low) AS start, least(h.hole[2], h.high) AS stop
  FROM (SELECT *, unnest(etl.holes) AS hole FROM files) AS h
  WHERE greatest(h.hole[1], h.low) < least(h.hole[2], h.high)
),
spans AS (
  SELECT i.file_name, any_value(i.begin) AS begin, min(i.start) AS start, max(i.stop) AS stop
  FROM (
    SELECT n.*, sum(n.fresh) OVER (PARTITION BY n.file_name ORDER BY n.start, n.stop) AS island
    FROM (
      SELECT a.*, (a.start > coalesce(max(a.stop) OVER (
        PARTITION BY a.file_name ORDER BY a.start, a.stop ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1))::INT AS fresh
      FROM answers AS a
    ) AS n
  ) AS i
  GROUP BY i.file_name, i.island
),
pieces AS (
  SELECT file_name, 'answer' AS kind, start, stop, c FROM answers
  UNION ALL SELECT file_name, 'covered', start, stop, NULL FROM spans
  UNION ALL SELECT file_name, 'life', greatest(start, begin), stop, NULL FROM spans WHERE begin < stop
  UNION ALL SELECT file_name, 'hole', start, stop, NULL FROM holes
  UNION ALL
  SELECT h.file_name, a.source, greatest(h.start, a.start), least(h.stop, a.stop), NULL
  FROM holes AS h JOIN answers AS a ON a.file_name = h.file_name AND a.start < h.stop AND a.stop > h.start
),
cut AS (
  SELECT p.*, epoch_ms(p.cell) AS cell_start, epoch_ms(p.cell + p.width) AS cell_stop,
    greatest(p.start, epoch_ms(p.cell)) AS low, least(p.stop, epoch_ms(p.cell + p.width)) AS high
  FROM (
    SELECT q.*, unnest(generate_series(date_trunc(q.unit, epoch_ms(q.start)), epoch_ms(q.stop - 1), q.width)) AS cell
    FROM (
      SELECT p.*, f.market, f.symbol, f.interval, f.step, f.phase,
        CASE WHEN f.step BETWEEN 1 AND 86399999 OR f.step IS NULL THEN 'day' ELSE 'month' END AS unit,
        CASE WHEN f.step BETWEEN 1 AND 86399999 OR f.step IS NULL THEN INTERVAL 1 DAY ELSE INTERVAL 1 MONTH END AS width
      FROM pieces AS p JOIN files AS f USING (file_name)
    ) AS q
  ) AS p
),
counted AS (
  SELECT c.*, c.high - c.low AS length,
    CASE WHEN c.step = 0 THEN (c.low = c.cell_start)::BIGINT
      ELSE (c.high - c.phase + c.step - 1) // nullif(c.step, 0) - (c.low - c.phase + c.step - 1) // nullif(c.step, 0) END AS opens
  FROM cut AS c
),
cells AS (
  SELECT c.market, c.symbol, c.interval, c.cell,
    max({'length': c.length, 'start': c.low, 'source': c.c.source, 'url': c.c.source_url, 'sha256': c.c.sha256}) FILTER (c.kind = 'answer') AS answer,
    max(c.c.checked) FILTER (c.kind = 'answer') AS checked,
    any_value(c.cell_stop - c.cell_start) AS whole,
    any_value(c.step) AS step,
    sum(c.opens) FILTER (c.kind = 'covered') AS asked,
    coalesce(sum(c.opens) FILTER (c.kind = 'life'), 0) AS expected,
    coalesce(sum(c.opens) FILTER (c.kind = 'hole'), 0) AS missing,
    coalesce(sum(c.length) FILTER (c.kind = 'covered'), 0) AS covered,
    coalesce(sum(c.length) FILTER (c.kind = 'life'), 0) AS life,
    coalesce(sum(c.length) FILTER (c.kind = 'hole'), 0) AS hole,
    coalesce(sum(c.length) FILTER (c.kind = 'rest'), 0) AS rest,
    coalesce(sum(c.length) FILTER (c.kind = 'archive'), 0) AS archive
  FROM counted AS c
  GROUP BY c.market, c.symbol, c.interval, c.cell
)
SELECT c.market, '$dataset' AS dataset, c.symbol, c.interval, c.cell::DATE AS day, c.answer.source AS source,
  c.answer.url AS source_url, c.answer.sha256 AS sha256,
  $rows AS rows,
  CASE WHEN c.step IS NOT NULL THEN c.expected::BIGINT END AS expected,
  CASE WHEN c.step IS NOT NULL THEN c.missing::BIGINT END AS missing,
  CASE
    WHEN c.life = 0 THEN 'not_listed'
    WHEN c.missing > 0 THEN CASE WHEN c.rest = c.hole AND c.archive = c.hole THEN 'outage' ELSE 'missing' END
    WHEN c.covered < c.whole OR c.life < c.covered THEN 'partial'
    ELSE 'complete'
  END AS verdict,
  epoch_ms(c.checked) AS checked_at
FROM cells AS c$counts
WHERE c.step IS NULL OR c.asked > 0
)
