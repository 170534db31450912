// The contract, linted and compared: with what the code prints, and with the last release, which it may not break.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { CriticalityLevel, diff, DiffRule } from "@graphql-inspector/core";
import { ESLint } from "eslint";
import { buildSchema } from "graphql";

const HOUSE = new URL("../..", import.meta.url).pathname;
const SDL = "graphql/schema.graphql";

const env = { PATH: process.env.PATH, HOME: process.env.HOME }; // git's settings are in its home
const output = (program, ...options) => execFileSync(program, options, { cwd: HOUSE, encoding: "utf8", env });
const describe = (changes) => changes.map((change) => `${change.criticality.level}: ${change.message}`);

async function lints() {
  const eslint = new ESLint({ cwd: HOUSE, overrideConfigFile: `${HOUSE}dev/audit/eslint.config.mjs` });
  const results = await eslint.lintFiles([SDL, "graphql/operations/**/*.graphql"]);
  const formatter = await eslint.loadFormatter("stylish");
  const problems = results.filter((result) => result.messages.length > 0);
  assert.equal(problems.length, 0, await formatter.format(results));
  console.log(`  ${results.length} files linted: ok`);
}

async function isWhatTheCodePrints(committed) {
  const printed = buildSchema(output(".venv/bin/python", "-m", "api.schema"));
  assert.deepEqual(describe(await diff(committed, printed)), []);
  console.log("  the schema is what the code prints: ok");
}

// What was deprecated in the last release may go.
async function breaksNoPromise(committed) {
  const [release] = output("git", "tag", "--merged", "HEAD", "--sort=-v:refname", "--list", "v*").split("\n");
  if (!release) return console.log("  nothing has been released that the schema could break");
  const promised = buildSchema(output("git", "show", `${release}:${SDL}`));
  const changes = await diff(promised, committed, [DiffRule.suppressRemovalOfDeprecatedField]);
  const breaking = changes.filter((change) => change.criticality.level === CriticalityLevel.Breaking);
  assert.deepEqual(describe(breaking), []);
  return console.log(`  ${changes.length} changes since ${release}, none of which breaks it: ok`);
}

const committed = buildSchema(readFileSync(HOUSE + SDL, "utf8"));
await lints();
await isWhatTheCodePrints(committed);
await breaksNoPromise(committed);
