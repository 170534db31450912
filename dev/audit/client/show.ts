// Prints the newest Monday, then the Mondays before it, page by page. Every name here comes from the documents.
import { BatchesDocument, LatestBatchDocument, type TypedDocumentString } from "./generated/documents.js";

declare const process: { argv: string[] };
const origin = process.argv[2];

async function ask<Answer, Variables>(
  document: TypedDocumentString<Answer, Variables>,
  variables: Variables,
): Promise<Answer> {
  const response = await fetch(`${origin}/graphql`, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/graphql-response+json" },
    body: JSON.stringify({ query: document.toString(), variables }),
  });
  const { data, errors } = (await response.json()) as { data?: Answer; errors?: { message: string }[] };
  if (!data) throw new Error(errors?.map((error) => error.message).join(" "));
  return data;
}

const { latestBatch } = await ask(LatestBatchDocument, {});
for (const pick of latestBatch?.picks ?? []) {
  const alpha: string = pick.latestMetric?.alphaPct ?? "not yet known";
  console.log(`${latestBatch?.runDate}: ${pick.action} ${pick.ticker} at ${pick.initialPrice}, alpha ${alpha}`);
}

if (latestBatch?.failure) console.log(`${latestBatch.runDate}: no picks. ${latestBatch.failure}`);

let after: string | null = null;
do {
  const { batches }: Awaited<ReturnType<typeof page>> = await page(after);
  for (const batch of batches.nodes) console.log(`${batch.runDate}: ${batch.status}`);
  after = batches.pageInfo.hasNextPage ? batches.pageInfo.endCursor ?? null : null;
} while (after);

function page(after: string | null) {
  return ask(BatchesDocument, { first: 1, after });
}

// What the compiler must refuse, or the types say nothing.
export async function refused() {
  // @ts-expect-error A decimal is text, not a number.
  const price: number | undefined = (await ask(LatestBatchDocument, {})).latestBatch?.picks[0]?.initialPrice;
  // @ts-expect-error There is no such field.
  const luck = (await ask(LatestBatchDocument, {})).latestBatch?.luck;
  // @ts-expect-error A page has a number of rows.
  await ask(BatchesDocument, { first: "many" });
  return [price, luck];
}
