// Mercurius as its documentation has it for speed: JIT from the first request on, batched loaders, prepared statements.
// With CACHE=true its cache keeps what the root fields gave, and these load all that is below them: keeping what every
// loader gave as well (its option `all`) made it no faster than without a cache.
//
//     DATABASE=postgresql:///bench?host=/run/postgres PORT=8082 node mercurius.js
import Fastify from "fastify";
import mercurius from "mercurius";
import cache from "mercurius-cache";
import pg from "pg";

const pool = new pg.Pool({
  connectionString: process.env.DATABASE,
  max: 8,
  // Dates, times and decimals travel as the text that Postgres wrote.
  types: { getTypeParser: (oid, format) => (oid === 16 || oid === 23 ? pg.types.getTypeParser(oid, format) : String) },
});

const schema = `
  type Close { tradingDay: String! close: String! source: String! readAt: String! }
  type Pick {
    id: ID! position: Int! ticker: String! action: String! reasoning: String! initialPrice: String!
    initialClose: Close! entryOpen: String ended: Boolean!
  }
  type Metric {
    pick: Pick! currentPrice: String! splitFactor: String! absoluteReturnPct: String! vsBenchmarkPct: String!
    returnFromOpenPct: String unusualMove: Boolean! ended: Boolean!
  }
  type Checkpoint {
    id: ID! day: Int! checkpointDate: String! tradingDay: String status: String! skipReason: String note: String
    takenAt: String! skippedAt: String benchmarkPrice: String benchmarkSplitFactor: String benchmarkReturnPct: String
    metrics: [Metric!]!
  }
  type Batch {
    id: ID! series: String! runDate: String! createdAt: String! status: String! late: Boolean! failureReason: String
    failure: String benchmarkSymbol: String! benchmarkInitialPrice: String tradingDay: String
    picks: [Pick!]! checkpoints: [Checkpoint!]! latestCheckpoint: Checkpoint
  }
  type PageInfo { hasNextPage: Boolean! endCursor: String }
  type Batches { nodes: [Batch!]! pageInfo: PageInfo! }
  type Query {
    latestBatch(series: String! = "main"): Batch
    batches(first: Int! = 20, after: String, series: String! = "main"): Batches!
  }
`;

const BATCH = `
  id, series, run_date AS "runDate", created_at AS "createdAt", status, late, failure_reason AS "failureReason", failure,
  benchmark_symbol AS "benchmarkSymbol", benchmark_initial_price AS "benchmarkInitialPrice",
  trading_day AS "tradingDay"`;
const PICK = `
  id, batch_id, initial_close_id, position, ticker, action, reasoning, initial_price AS "initialPrice",
  entry_open AS "entryOpen", ended`;
const CHECKPOINT = `
  checkpoints.id, checkpoints.batch_id, day, checkpoint_date AS "checkpointDate", trading_day AS "tradingDay", status,
  skip_reason AS "skipReason", note, taken_at AS "takenAt", skipped_at AS "skippedAt",
  benchmark_price AS "benchmarkPrice", benchmark_split_factor AS "benchmarkSplitFactor",
  benchmark_return_pct AS "benchmarkReturnPct"`;
const METRIC = `
  checkpoint_id, pick_id, current_price AS "currentPrice", split_factor AS "splitFactor",
  absolute_return_pct AS "absoluteReturnPct", vs_benchmark_pct AS "vsBenchmarkPct",
  return_from_open_pct AS "returnFromOpenPct", unusual_move AS "unusualMove", pick_checkpoint_metrics.ended`;

const ask = async (name, text, values) => (await pool.query({ name, text, values })).rows;

const resolvers = {
  Query: {
    latestBatch: async (_, { series }) =>
      (await ask("latest", `SELECT ${BATCH} FROM batches WHERE series = $1 ORDER BY run_date DESC LIMIT 1`, [series]))[0],
    batches: async (_, { first, after, series }) => {
      const rows = await ask(
        "batches",
        `SELECT ${BATCH} FROM batches WHERE series = $1 AND run_date < coalesce($2, date 'infinity')
         ORDER BY run_date DESC LIMIT $3`,
        [series, after && Buffer.from(after, "base64").toString(), first + 1],
      );
      const nodes = rows.slice(0, first);
      const endCursor = nodes.length ? Buffer.from(nodes.at(-1).runDate).toString("base64") : null;
      return { nodes, pageInfo: { hasNextPage: rows.length > first, endCursor } };
    },
  },
};

// Loaders: one statement for all parents that ask at once.
const many = (name, text, key, parent = "id") => ({
  opts: { cache: false },
  loader: async (queries) => {
    const found = new Map(queries.map(({ obj }) => [obj[parent], []]));
    for (const row of await ask(name, text, [[...found.keys()]])) found.get(row[key]).push(row);
    return queries.map(({ obj }) => found.get(obj[parent]));
  },
});
const one = (name, text, key, parent) => {
  const { opts, loader } = many(name, text, key, parent);
  return { opts, loader: async (queries) => (await loader(queries)).map((rows) => rows[0] ?? null) };
};

const loaders = {
  Batch: {
    picks: many("picks", `SELECT ${PICK} FROM picks WHERE batch_id = ANY ($1) ORDER BY position`, "batch_id"),
    checkpoints: many(
      "checkpoints",
      `SELECT ${CHECKPOINT} FROM checkpoints WHERE batch_id = ANY ($1) ORDER BY day`,
      "batch_id",
    ),
    latestCheckpoint: one(
      "latestCheckpoint",
      `SELECT ${CHECKPOINT} FROM unnest($1::uuid[]) asked (id) CROSS JOIN LATERAL (
         SELECT * FROM checkpoints WHERE batch_id = asked.id AND status = 'computed' AND day > 0 ORDER BY day DESC LIMIT 1
       ) checkpoints`,
      "batch_id",
    ),
  },
  Pick: {
    initialClose: one(
      "initialClose",
      `SELECT id, trading_day AS "tradingDay", close, source, read_at AS "readAt" FROM closes WHERE id = ANY ($1)`,
      "id",
      "initial_close_id",
    ),
  },
  Checkpoint: {
    metrics: many(
      "metrics",
      `SELECT ${METRIC} FROM pick_checkpoint_metrics JOIN picks ON picks.id = pick_id
       WHERE checkpoint_id = ANY ($1) ORDER BY position`,
      "checkpoint_id",
    ),
  },
  Metric: { pick: one("pick", `SELECT ${PICK} FROM picks WHERE id = ANY ($1)`, "id", "pick_id") },
};

const load = async (type, field, rows) => {
  const given = await loaders[type][field].loader(rows.map((obj) => ({ obj })));
  rows.forEach((row, at) => (row[field] = given[at]));
  return given.flat();
};
const whole = {
  Query: {
    latestBatch: async (...asked) => {
      const batch = await resolvers.Query.latestBatch(...asked);
      await load("Pick", "initialClose", await load("Batch", "picks", [batch]));
      const metrics = await load("Checkpoint", "metrics", await load("Batch", "checkpoints", [batch]));
      await load("Metric", "pick", metrics);
      return batch;
    },
    batches: async (...asked) => {
      const page = await resolvers.Query.batches(...asked);
      await load("Batch", "picks", page.nodes);
      await load("Batch", "latestCheckpoint", page.nodes);
      return page;
    },
  },
};

const cached = process.env.CACHE === "true";
const app = Fastify({ logger: false });
app.register(mercurius, { schema, jit: 1, graphiql: false, ...(cached ? { resolvers: whole } : { resolvers, loaders }) });
if (cached) app.register(cache, { ttl: 3600, policy: { Query: { latestBatch: true, batches: true } } });
await app.listen({ port: Number(process.env.PORT), host: "127.0.0.1" });
