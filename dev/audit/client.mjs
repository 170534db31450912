// A typed client of the API: `node dev/audit/client.mjs ORIGIN` writes the documents' types down, compiles the client that uses
// them, strictly, and runs it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { codegen } from "@graphql-codegen/core";
import * as documentNodes from "@graphql-codegen/typed-document-node";
import * as operations from "@graphql-codegen/typescript-operations";
import { parse } from "graphql";

const HOUSE = new URL("../..", import.meta.url).pathname;
const CLIENT = `${HOUSE}dev/audit/client`;
const origin = process.argv[2];

const read = (path) => parse(readFileSync(HOUSE + path, "utf8"));
const documents = readdirSync(`${HOUSE}graphql/operations`, { recursive: true })
  .filter((name) => name.endsWith(".graphql"))
  .map((name) => `graphql/operations/${name}`);
const text = { input: "string", output: "string" };

mkdirSync(`${CLIENT}/generated`, { recursive: true });
writeFileSync(`${CLIENT}/generated/documents.ts`, await codegen({
  filename: "documents.ts",
  schema: read("graphql/schema.graphql"),
  documents: documents.map((path) => ({ location: path, document: read(path) })),
  config: {
    documentMode: "string",
    strictScalars: true,
    scalars: { ID: text, Date: text, DateTime: text, Decimal: text },
    useTypeImports: true,
  },
  plugins: [{ operations: {} }, { documentNodes: {} }],
  pluginMap: { operations, documentNodes },
}));
execFileSync(process.execPath, [`${HOUSE}dev/audit/node_modules/typescript/bin/tsc`, "-p", CLIENT], { stdio: "inherit" });

const said = execFileSync(process.execPath, [`${CLIENT}/generated/js/show.js`, origin], { encoding: "utf8" });
// A rehearsed Monday may have failed, and then says so.
assert.match(said, /^\d{4}-\d\d-\d\d: ((BUY|SELL) [A-Z.]+ at [\d.]+, alpha|no picks\. \S)/);
assert.match(said, /^\d{4}-\d\d-\d\d: (ACTIVE|COMPLETED|FAILED)$/m);
console.log(`  a generated, typed client: ok\n${said.replace(/^/gm, "    ").trimEnd()}`);
