// PostGraphile 5 over our tables as they are, as its documentation has it for production: grafserv on Node's own server,
// no watching, no GraphiQL, no explaining, prepared statements (its adaptor's default).
//
//     DATABASE=postgresql:///bench?host=/run/postgres PORT=8081 node postgraphile.js
import { createServer } from "node:http";
import { grafserv } from "postgraphile/grafserv/node";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import { makePgService } from "postgraphile/adaptors/pg";
import { postgraphile } from "postgraphile";

const preset = {
  extends: [PostGraphileAmberPreset],
  // It would allow no query for the computed checkpoints alone, because no index begins with their status.
  disablePlugins: ["PgIndexBehaviorsPlugin"],
  pgServices: [
    makePgService({ connectionString: process.env.DATABASE, schemas: ["public"], poolConfig: { max: 8 } }),
  ],
  // Lists beside connections, so that it can be asked for the same shape as the others.
  schema: { defaultBehavior: "+list" },
  grafserv: { graphqlPath: "/graphql", graphiql: false, watch: false },
  grafast: { explain: false },
};

const server = createServer();
server.on("error", (error) => {
  console.error(error);
  process.exit(1);
});
await postgraphile(preset).createServ(grafserv).addTo(server);
server.listen(Number(process.env.PORT), "127.0.0.1");
