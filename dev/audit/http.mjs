// GraphQL over HTTP: the specification's own audits against a running server. SHOULDs and MAYs count as much as MUSTs.
import { auditServer } from "graphql-http";

const [origin] = process.argv.slice(2);
const results = await auditServer({ url: `${origin}/graphql`, fetchFn: fetch });
const missed = results.filter((result) => result.status !== "ok");
for (const { status, id, name, reason } of missed) console.error(`${status} ${id} ${name}: ${reason}`);
console.log(`graphql-http: ${results.length - missed.length} of ${results.length} audits ok`);
process.exitCode = missed.length || results.length < 61 ? 1 : 0;
