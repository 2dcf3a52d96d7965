-- The part of `ledger` that tells of $dataset: one row a series and cell (a UTC day; a calendar month for intervals from 1d on),
-- from the footers alone; the rows of funding, which has no grid, are counted.
--   life      covered time from the first row to the last one; `expected` counts its bars, of which `missing` are holes
--   source    of the answer that covers most of the cell; checked_at is the day of the latest answer
--   verdict   lost: a source failed, so that not all of the cell was answered. not_listed: all that was asked lies before the first
--             row, or behind the last one of a contract that is over, or in an absence of a week and more that every source
--             confirmed, as between two contracts of one name; of settlements, a day for which every source answered with none,
--             or what lies in a day or more (`bare`) before the first, or after the last one of a contract that does not trade
--             any more, unless only the archive answered for a time before it begins.
--             missing, outage: bars, or a day's settlements, are absent from what one, or every, source answered. partial: not
--             all of the cell was asked, or the series began or ended in it. else complete.
SELECT * FROM (
WITH ${settled}footers AS (
  SELECT row_number() OVER () AS file, m.file_name, from_json(decode(m.value), '$footer') AS etl,
    parse_filename(m.file_name, true) AS name
  FROM parquet_kv_metadata($files) AS m
  WHERE decode(m.key) = 'etl'
),
files AS (
  SELECT p.*, p.etl.market AS market, p.etl.symbol AS symbol, p.etl.interval AS "interval", g.step, g.phase,
    g.step IS NULL OR g.step BETWEEN 1 AND 86399999 AS daily,
    epoch_ms(p.period) AS low,
    epoch_ms(p.period + CASE length(p.name) WHEN 4 THEN INTERVAL 1 YEAR ELSE INTERVAL 1 MONTH END) AS high,
    coalesce(least(r.first, p.etl.holes[1][1]), $never) AS begin,
    coalesce(greatest(r.past, p.etl.holes[-1][2]), 0) AS finish, r.quiet
  FROM (
    SELECT f.*, try_cast(CASE length(f.name) WHEN 4 THEN f.name || '-01-01' ELSE f.name || '-01' END AS TIMESTAMP) AS period
    FROM footers AS f
  ) AS p
  LEFT JOIN (VALUES $grids) AS g(name, step, phase) ON g.name = p.etl.interval
  LEFT JOIN ($first) AS r ON $first_of
  WHERE p.period IS NOT NULL
),
answers AS (
  SELECT a.file, a.begin, a.finish, a.c, greatest(a.c.start, a.low) AS start, least(a.c."end", a.high) AS stop
  FROM (SELECT f.*, unnest(f.etl.coverage) AS c FROM files AS f) AS a
  WHERE greatest(a.c.start, a.low) < least(a.c."end", a.high)
),
holes AS (
  SELECT h.file, greatest(h.hole[1], h.low) AS start, least(h.hole[2], h.high) AS stop, h.hole[2] - h.hole[1] AS length
  FROM (SELECT f.*, unnest(f.etl.holes) AS hole FROM files AS f) AS h
  WHERE greatest(h.hole[1], h.low) < least(h.hole[2], h.high)
),
spans AS (
  SELECT i.file, any_value(i.begin) AS begin, any_value(i.finish) AS finish, min(i.start) AS start, max(i.stop) AS stop
  FROM (
    SELECT n.*, sum(n.fresh) OVER (PARTITION BY n.file ORDER BY n.start, n.stop) AS island
    FROM (
      SELECT a.*, (a.start > coalesce(max(a.stop) OVER (
        PARTITION BY a.file ORDER BY a.start, a.stop ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), -1))::INT AS fresh
      FROM answers AS a
    ) AS n
  ) AS i
  GROUP BY i.file, i.island
),
pieces AS (
  SELECT a.file, 'answer' AS kind, a.start, a.stop, a.c FROM answers AS a
  UNION ALL
  SELECT s.file, 'covered', s.start, s.stop, NULL FROM spans AS s
  UNION ALL
  SELECT s.file, 'life', greatest(s.start, s.begin), least(s.stop, s.finish), NULL
  FROM spans AS s WHERE greatest(s.start, s.begin) < least(s.stop, s.finish)$bare
  UNION ALL
  SELECT h.file, 'hole', h.start, h.stop, NULL FROM holes AS h
  UNION ALL
  SELECT h.file, 'between', h.start, h.stop, NULL FROM holes AS h WHERE h.length >= $between
  UNION ALL
  SELECT l.file, 'lost', l.span[1], l.span[2], NULL FROM (SELECT f.file, unnest(f.etl.lost) AS span FROM files AS f) AS l
  UNION ALL
  SELECT h.file, a.c.source, greatest(h.start, a.start), least(h.stop, a.stop), NULL
  FROM holes AS h JOIN answers AS a ON a.file = h.file AND a.start < h.stop AND a.stop > h.start
),
cut AS (
  SELECT e.*, e.cell_stop - e.cell_start AS whole, greatest(e.start, e.cell_start) AS low, least(e.stop, e.cell_stop) AS high
  FROM (
    SELECT d.*, epoch_ms(d.cell) AS cell_start,
      epoch_ms(d.cell + CASE WHEN d.daily THEN INTERVAL 1 DAY ELSE INTERVAL 1 MONTH END) AS cell_stop
    FROM (
      SELECT p.*, f.market, f.symbol, f.interval, f.step, f.phase, f.daily, f.quiet, unnest(generate_series(
        date_trunc(CASE WHEN f.daily THEN 'day' ELSE 'month' END, epoch_ms(p.start)),
        epoch_ms(p.stop - 1),
        CASE WHEN f.daily THEN INTERVAL 1 DAY ELSE INTERVAL 1 MONTH END
      )) AS cell
      FROM pieces AS p JOIN files AS f ON f.file = p.file
    ) AS d
  ) AS e
),
counted AS (
  SELECT c.*, c.high - c.low AS length,
    CASE
      WHEN c.step = 0 THEN (c.low = c.cell_start)::BIGINT
      ELSE (c.high - c.phase + c.step - 1) // nullif(c.step, 0) - (c.low - c.phase + c.step - 1) // nullif(c.step, 0)
    END AS opens
  FROM cut AS c
),
cells AS (
  SELECT c.market, c.symbol, c.interval, c.file, c.cell,
    max({'length': c.length, 'start': c.low, 'c': c.c}) FILTER (c.kind = 'answer') AS answer,
    max(c.c.checked) FILTER (c.kind = 'answer') AS checked,
    any_value(c.whole) AS whole,
    any_value(c.step) AS step,
    any_value(c.cell_start >= c.quiet) AS quiet,
    sum(c.opens) FILTER (c.kind = 'covered') AS asked,
    coalesce(sum(c.opens) FILTER (c.kind IN ('life', 'lost')), 0)::BIGINT AS expected,
    coalesce(sum(c.opens) FILTER (c.kind IN ('hole', 'lost')), 0)::BIGINT AS missing,
    sum(c.length) FILTER (c.kind = 'lost') AS lost,
    sum(c.length) FILTER (c.kind = 'covered') AS covered,
    sum(c.length) FILTER (c.kind = 'life') AS life,
    sum(c.length) FILTER (c.kind = 'bare') AS bare,
    sum(c.length) FILTER (c.kind = 'hole') AS hole,
    sum(c.length) FILTER (c.kind = 'rest') AS rest,
    sum(c.length) FILTER (c.kind = 'archive') AS archive,
    coalesce(sum(c.length) FILTER (c.kind = 'answer' AND c.c.source = 'rest'), 0) AS by_rest,
    coalesce(sum(c.length) FILTER (c.kind = 'answer' AND c.c.source = 'archive'), 0) AS by_archive,
    coalesce(sum(c.opens) FILTER (c.kind = 'between'), 0)::BIGINT AS between_lives
  FROM counted AS c
  GROUP BY c.market, c.symbol, c.interval, c.file, c.cell -- the names, so that a filter on them reaches down to the files
),
told AS (
  SELECT s.* REPLACE (s.expected - s.apart AS expected, s.missing - s.apart AS missing)
  FROM (
    SELECT c.*, c.rest = c.hole AND c.archive = c.hole AS denied, CASE WHEN denied THEN c.between_lives ELSE 0 END AS apart
    FROM cells AS c
  ) AS s
)
SELECT c.market, '$dataset' AS dataset, c.symbol, c.interval, c.cell::DATE AS day,
  c.answer.c.source AS source, c.answer.c.source_url AS source_url, c.answer.c.sha256 AS sha256,
  $rows AS rows, CASE WHEN c.step IS NOT NULL THEN c.expected END AS expected,
  CASE WHEN c.step IS NOT NULL THEN c.missing END AS missing,
  CASE
    WHEN c.lost > 0 THEN 'lost'
    WHEN c.step IS NULL AND c.life IS NULL AND c.bare IS NULL THEN 'partial'
    WHEN c.step IS NULL AND c.life IS NULL AND c.by_rest < c.covered AND $unarchived THEN 'missing'
    WHEN c.life IS NULL OR (c.apart > 0 AND c.expected = 0) THEN 'not_listed'
    WHEN c.step IS NULL AND c.covered = c.whole AND $rows = 0
      THEN CASE
        WHEN c.life < c.whole OR (least(c.by_rest, c.by_archive) = c.whole AND NOT c.quiet) THEN 'not_listed'
        WHEN least(c.by_rest, c.by_archive) = c.whole THEN 'outage'
        ELSE 'missing'
      END
    WHEN c.missing > 0 THEN CASE WHEN c.denied THEN 'outage' ELSE 'missing' END
    WHEN c.covered < c.whole OR CASE WHEN c.step IS NULL THEN c.life < c.covered ELSE c.expected < c.asked END THEN 'partial'
    ELSE 'complete'
  END AS verdict,
  epoch_ms(c.checked) AS checked_at
FROM told AS c$counts
WHERE c.step IS NULL OR c.asked > 0 OR c.lost > 0
)
