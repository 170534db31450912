// The linter's recommendations for a schema and for documents that are sent to it, less what does not fit here.
import graphql from "@graphql-eslint/eslint-plugin";

const languageOptions = {
  parser: graphql.parser,
  parserOptions: { graphQLConfig: { schema: "graphql/schema.graphql", documents: "graphql/operations/**/*.graphql" } },
};
const plugins = { "@graphql-eslint": graphql };

export default [
  {
    files: ["**/schema.graphql"],
    languageOptions,
    plugins,
    rules: {
      ...graphql.configs["flat/schema-recommended"].rules,
      // A split is known by its ticker and date, a rate by its date, and a series by its name; pages, the service and what
      // is worked out are nothing that could be looked up.
      "@graphql-eslint/strict-id-in-types": ["error", {
        acceptedIdNames: ["id", "seq"],
        acceptedIdTypes: ["ID", "String"],
        exceptions: {
          types: [
            "Split", "PageInfo", "Service", "TrackRecord", "ResultFigures", "Average", "Interval", "CurvePoint",
            "WeeklyExcess", "Week", "RandomActions", "Bin", "Verdict", "Look", "Rate", "Series", "Comparison",
            "BenchmarkComparison", "Dividend", "TotalResults", "AfterCosts", "ProbabilityScores", "ProbabilityGroup",
            "CalibrationBin", "FurtherAverage",
          ],
          suffixes: ["Connection", "Edge", "Counts"],
        },
      }],
      // The record's own words: a close's `close`, and the `checkpointDate` that is no other date.
      "@graphql-eslint/no-typename-prefix": "off",
    },
  },
  {
    files: ["**/operations/**/*.graphql"],
    languageOptions,
    plugins,
    rules: {
      ...graphql.configs["flat/operations-recommended"].rules,
      // For caches in clients; these documents are read by people, who are not helped by an id at every level.
      "@graphql-eslint/require-selections": "off",
    },
  },
];
