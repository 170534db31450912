"""The schema: the contract, name by name, and its printed form."""

import re
from pathlib import Path

import graphql
import pytest
from graphql import (
    build_schema,
    is_enum_type,
    is_object_type,
    is_scalar_type,
    is_specified_scalar_type,
    print_type,
)
from graphql.utilities import lexicographic_sort_schema

from api.schema import print_sdl, schema

ROOT = Path(__file__).parents[2]

CONTRACT = """
type Query {
  latestBatch(series: String! = "main"): Batch
  batch(id: ID!): Batch
  batchOn(runDate: Date!, series: String! = "main"): Batch
  batches(
    first: Int! = 20, after: String, status: BatchStatus, series: String! = "main"
  ): BatchConnection!
  pick(id: ID!): Pick
  picks(ticker: String!, first: Int! = 20, after: String): PickConnection!
  closes(ticker: String!, first: Int! = 20, after: String): CloseConnection!
  splits(ticker: String!, first: Int! = 20, after: String): SplitConnection!
  dividends(first: Int! = 20, after: String, ticker: String!): DividendConnection!
  rates(first: Int! = 20, after: String): RateConnection!
  journal(first: Int! = 20, after: String, kind: JournalKind): JournalConnection!
  timestamps(first: Int! = 20, after: String): TimestampConnection!
  trackRecord(
    series: String! = "main", from: Date, to: Date, action: Action, profile: String
  ): TrackRecord!
  series: [Series!]!
  seriesNamed(name: String!): Series
  comparison(a: String!, b: String!): Comparison
  service: Service!
}
type Series {
  name: String! label: String! kind: SeriesKind! model: String firstRunDate: Date
  retiredAt: DateTime profiles: [Profile!]! latestBatch: Batch
  batches(first: Int! = 20, after: String, status: BatchStatus): BatchConnection!
  trackRecord(from: Date, to: Date, action: Action, profile: String): TrackRecord!
}
type Profile {
  seq: String! declaredAt: DateTime! series: String! label: String! kind: SeriesKind!
  holdsFrom: Date! retired: Boolean! sha256: String! text: String! model: String baseUrl: String
  responseFormat: String temperature: Decimal reasoningEffort: String maxTokens: Int
  tokenLimitAs: String extraBody: String tools: Boolean! timeoutSeconds: Decimal
  promptVersion: String systemPromptSha256: String userPromptSha256: String answerSchema: String
  drawVersion: String universe: String universeSize: Int universeSource: String
}
enum SeriesKind { MODEL RANDOM }
type Comparison {
  a: String! b: String! weeks: Int! firstWeek: Date! lastWeek: Date! meanDifferencePct: Decimal!
  interval: Interval comparisons: Int!
}
type BatchConnection { edges: [BatchEdge!]! nodes: [Batch!]! pageInfo: PageInfo! }
type BatchEdge { cursor: String! node: Batch! }
type PickConnection { edges: [PickEdge!]! nodes: [Pick!]! pageInfo: PageInfo! }
type PickEdge { cursor: String! node: Pick! }
type CloseConnection { edges: [CloseEdge!]! nodes: [Close!]! pageInfo: PageInfo! }
type CloseEdge { cursor: String! node: Close! }
type SplitConnection { edges: [SplitEdge!]! nodes: [Split!]! pageInfo: PageInfo! }
type SplitEdge { cursor: String! node: Split! }
type TotalResults {
  count: Int! alphaPct: Average! totalAlphaPct: Average!
  directionalTotalReturnPct: Average! totalHits: Int!
}
type DividendConnection {
  edges: [DividendEdge!]! nodes: [Dividend!]! pageInfo: PageInfo!
}
type DividendEdge { cursor: String! node: Dividend! }
type Dividend {
  ticker: String! exDate: Date! amount: Decimal! source: String! readAt: DateTime!
}
type RateConnection { edges: [RateEdge!]! nodes: [Rate!]! pageInfo: PageInfo! }
type RateEdge { cursor: String! node: Rate! }
type Rate { observedOn: Date! valuePct: Decimal! source: String! readAt: DateTime! }
type TimestampConnection {
  edges: [TimestampEdge!]! nodes: [Timestamp!]! pageInfo: PageInfo!
}
type TimestampEdge { cursor: String! node: Timestamp! }
type JournalConnection { edges: [JournalEdge!]! nodes: [JournalEntry!]! pageInfo: PageInfo! }
type JournalEdge { cursor: String! node: JournalEntry! }
type PageInfo {
  hasNextPage: Boolean! hasPreviousPage: Boolean! startCursor: String endCursor: String
}
type Batch {
  id: ID! series: String! runDate: Date! createdAt: DateTime! status: BatchStatus! late: Boolean!
  failureReason: FailureReason failure: String benchmarkSymbol: String!
  benchmarkInitialPrice: Decimal
  benchmarkInitialClose: Close tradingDay: Date
  picks: [Pick!]!
  checkpoints(status: CheckpointStatus): [Checkpoint!]!
  latestCheckpoint: Checkpoint
  result: Checkpoint
  nextCheckpointAt: DateTime
  furtherBenchmarks: [FurtherBenchmark!]!
  generations: [Generation!]!
  journal: [JournalEntry!]!
  timestamp: Timestamp
  profile: Profile
  stampedBeforeOpen: Boolean
}
type Timestamp {
  seq: String! hash: String! kind: TimestampKind! authority: String! at: DateTime!
  accuracySeconds: Decimal receivedAt: DateTime! status: TimestampStatus! proof: String!
  chain: String blockHeight: Int
}
type Pick {
  id: ID! batch: Batch! position: Int! ticker: String! action: Action! reasoning: String!
  probability: Int
  initialPrice: Decimal!
  initialClose: Close! entryOpen: Decimal entryClose: Close ended: Boolean!
  pickedAs: String! renamed: Boolean!
  metrics: [PickMetric!]! latestMetric: PickMetric result: PickMetric
}
type Checkpoint {
  id: ID! batch: Batch! day: Int! checkpointDate: Date! tradingDay: Date status: CheckpointStatus!
  skipReason: SkipReason wasSession: Boolean! note: String takenAt: DateTime! skippedAt: DateTime
  benchmarkPrice: Decimal benchmarkClose: Close benchmarkSplitFactor: Decimal
  benchmarkReturnPct: Decimal
  benchmarkUnusualMove: Boolean benchmarkDividends: Decimal benchmarkTotalReturnPct: Decimal
  benchmarkSpinOffCountedOnce: Boolean metrics: [PickMetric!]! corrections: [Correction!]!
}
type PickMetric {
  id: ID! pick: Pick! checkpoint: Checkpoint! currentPrice: Decimal! close: Close
  splitFactor: Decimal!
  absoluteReturnPct: Decimal! vsBenchmarkPct: Decimal! directionalReturnPct: Decimal!
  alphaPct: Decimal! hit: Boolean!
  returnFromOpenPct: Decimal unusualMove: Boolean! ended: Boolean! renamed: Boolean!
  dividends: Decimal totalReturnPct: Decimal vsBenchmarkTotalPct: Decimal totalAlphaPct: Decimal
  spinOffCountedOnce: Boolean
  vsBenchmarks: [BenchmarkComparison!]!
}
type BenchmarkComparison { symbol: String! returnPct: Decimal! vsPct: Decimal! }
type FurtherBenchmark {
  id: ID! symbol: String! position: Int! tradingDay: Date! initialPrice: Decimal!
  initialClose: Close! price: Decimal! close: Close! splitFactor: Decimal! returnPct: Decimal!
  measuredAt: DateTime!
}
type FurtherAverage {
  symbol: String! meanAlphaPct: Decimal! benchmarkMeanAlphaPct: Decimal! picks: Int!
}
type Close {
  id: ID! ticker: String! tradingDay: Date! open: Decimal close: Decimal! source: String!
  readAt: DateTime!
}
type Split {
  ticker: String! effectiveDate: Date! factor: Decimal! source: String! readAt: DateTime!
}
type Generation {
  id: ID! attempt: Int! accepted: Boolean refusal: String requestedModel: String!
  answeredModel: String
  promptVersion: String! profileSha256: String
  systemPrompt: String! userPrompt: String! answer: String
  answerBeginning: String answerBytes: Int requestId: String
  promptTokens: Int completionTokens: Int reasoningTokens: Int reasoningEffort: String
  finishReason: String systemFingerprint: String askedAt: DateTime! answeredAt: DateTime
}
type Correction {
  id: ID! checkpoint: Checkpoint! field: String! ticker: String before: String after: String
  reason: String!
  madeAt: DateTime!
}
type JournalEntry {
  seq: String! kind: JournalKind! at: DateTime! content: String! previous: String! hash: String!
}
type TrackRecord {
  series: String! firstRunDate: Date lastRunDate: Date
  batches: BatchCounts! picks: PickCounts!
  pickResults: ResultFigures! batchResults: ResultFigures!
  totalResults: TotalResults! best: PickScore worst: PickScore
  curve: [CurvePoint!]! drawdownPct: Decimal!
  weeklyExcess: WeeklyExcess! randomActions: RandomActions verdict: Verdict!
  vsBenchmarks: [FurtherAverage!]!
  afterCosts(bps: Int!): AfterCosts! breakEvenBps: Decimal
  probability: ProbabilityScores
}
type AfterCosts {
  bps: Int! costPct: Decimal! meanAlphaPct: Decimal medianAlphaPct: Decimal
  meanDirectionalReturnPct: Decimal sumPct: Decimal hits: Int! hitRatePct: Decimal
  hitRateInterval: Interval
}
type ProbabilityScores {
  picks: Int! hits: Int! meanStatedPct: Decimal! hitRatePct: Decimal! hitRateInterval: Interval!
  brierScore: Decimal! reliability: Decimal! resolution: Decimal! uncertainty: Decimal!
  halfBrierScore: Decimal! hitRateBrierScore: Decimal!
  groups: [ProbabilityGroup!]! bins: [CalibrationBin!]! words: String!
}
type ProbabilityGroup { statedPct: Int! picks: Int! hits: Int! }
type CalibrationBin {
  lowPct: Int! highPct: Int! picks: Int! hits: Int! meanStatedPct: Decimal hitRatePct: Decimal
  hitRateInterval: Interval
}
type BatchCounts {
  total: Int! active: Int! completed: Int! failed: Int! late: Int! unresolved: Int! scored: Int!
}
type PickCounts {
  total: Int! finished: Int! hits: Int! hitRatePct: Decimal hitRateInterval: Interval
}
type ResultFigures {
  count: Int! alphaPct: Average! directionalReturnPct: Average! absoluteReturnPct: Average!
}
type Average { mean: Decimal median: Decimal }
type Interval { low: Decimal! high: Decimal! }
type PickScore { id: ID! runDate: Date! ticker: String! action: Action! alphaPct: Decimal! }
type CurvePoint { runDate: Date! alphaPct: Decimal! sumPct: Decimal! }
type WeeklyExcess {
  count: Int! withoutMiddle: Int! meanPct: Decimal meanInterval: Interval
  beta: Decimal beyondBetaPct: Decimal beyondBetaInterval: Interval weeks: [Week!]!
}
type Week { monday: Date! picks: Int! excessPct: Decimal! benchmarkPct: Decimal! }
type RandomActions {
  draws: Int! seed: String! belowPct: Decimal! interval: Interval! bins: [Bin!]!
}
type Bin { low: Decimal! high: Decimal! count: Int! }
type Verdict {
  finding: Finding words: String! looks: [Look!]! nextLook: Date
  nextLookHeldAt: DateTime foundOn: Date
}
type Look {
  number: Int! on: Date! sharePct: Decimal! batches: Int! weeks: Int! beyondBetaPct: Decimal
  interval: Interval
    @deprecated(reason: "A check holds `probability` and `bound`, and no interval.")
  finding: Finding seq: String! heldAt: DateTime! late: Boolean! untestedReason: Untested
  gaps: Int! failedMondays: Int! probability: Decimal bound: Decimal
}
enum Untested {
  LATE CONTROL TOOLS RETIRED FAILED_MONDAYS TOO_FEW_WEEKS NO_PROBABILITY
}
type Service {
  version: String! rehearsed: Boolean! origin: Origin! recordId: String sealed: Boolean!
  lostAnswers: Int! nextRunAt: DateTime! journalHead: JournalEntry
}
enum BatchStatus { ACTIVE COMPLETED FAILED }
enum CheckpointStatus { COMPUTED SKIPPED }
enum Action { BUY SELL }
enum SkipReason { MARKET_CLOSED MISSING_CLOSE PROVIDER_ERROR }
enum FailureReason { MISSED NO_USABLE_ANSWER MISSING_CLOSE PROVIDER_ERROR CONFIGURATION }
enum Finding { BETTER WORSE UNDECIDED }
enum Origin { LIVE REHEARSED UNKNOWN }
enum TimestampKind { RFC3161 OPENTIMESTAMPS }
enum TimestampStatus { PENDING CONFIRMED }
enum JournalKind {
  GENERATION BATCH CHECKPOINT CORRECTION FAILURE PICK_ENDED PICK_RENAMED
  GENESIS SETTINGS SERIES READINGS CHECK RULES EXTENSION NOTE SUPPLEMENT
}
scalar Date
scalar DateTime
scalar Decimal
"""

OURS = {
    name: type_
    for name, type_ in schema.type_map.items()
    if not name.startswith("__") and not is_specified_scalar_type(type_)
}


def names_and_types(sdl: str) -> dict[str, str]:
    """A schema without its descriptions, in the order of the alphabet."""
    bare = build_schema(re.sub(r'""".*?"""', "", sdl, flags=re.DOTALL))
    return {
        name: print_type(type_) for name, type_ in lexicographic_sort_schema(bare).type_map.items()
    }


def test_is_the_contract():
    """
    Names, types, nullability, arguments and defaults are those that were promised, and no others.
    """
    assert names_and_types(print_sdl()) == names_and_types(CONTRACT)


def test_the_printed_schema_is_current():
    """What is committed is what is served."""
    committed = (ROOT / "graphql" / "schema.graphql").read_text()
    assert committed == print_sdl(), (
        "The schema has changed: run `make schema`, and read the difference."
    )


def described():
    """Every type, field, argument and enum value of ours, with its name."""
    for name, type_ in OURS.items():
        yield name, type_
        if is_scalar_type(type_):
            continue
        members = type_.values if is_enum_type(type_) else type_.fields
        for member, inner in members.items():
            yield f"{name}.{member}", inner
            for argument, of in getattr(inner, "args", {}).items():
                yield f"{name}.{member}({argument})", of


# The fewest words of a description: a shorter one says nothing that the name does not say.
MIN_WORDS = 5
# Words of the project's former private vocabulary. Names in backticks may contain them.
BANNED = re.compile(
    r"\b(told|somebody|nobody|whoever|what became of|comes? to|learnt|put right|"
    r"only these|from here|how often|by hand|kept|in hindsight|a look)\b",
    re.IGNORECASE,
)


def is_sentence(description: str) -> bool:
    """Whether a description is one or more sentences of some length."""
    first, last = description[:1], description[-1:]
    return (
        (first.isupper() or first == "`") and last == "." and len(description.split()) >= MIN_WORDS
    )


def test_everything_is_described():
    """Each type, field, argument and value has a description in full sentences."""
    descriptions = {name: thing.description or "" for name, thing in described()}
    assert {name: text for name, text in descriptions.items() if not is_sentence(text)} == {}
    assert any(is_object_type(type_) for type_ in OURS.values())
    assert "Batch.checkpoints(status)" in descriptions


def test_descriptions_use_standard_terms():
    banned = {
        name: match[0]
        for name, thing in described()
        if (match := BANNED.search(re.sub("`[^`]*`", "", thing.description or "")))
    }
    assert banned == {}


# What a client should learn from some descriptions that once had no content.
CONTENTS = {
    "Query": "Start with `latestBatch`",
    "TrackRecord.series": "whose record this is",
    "Batch.id": "Pass it to `batch(id:)`",
    "Batch.status": "`FAILED` if no picks were made",
    "Batch.failure": "in a sentence",
    "Batch.checkpoints": "day 0 first",
    "Batch.latestCheckpoint": "Null while there is none",
    "Batch.nextCheckpointAt": "Null unless the status is `ACTIVE`",
    "Checkpoint.metrics": "The list is empty on day 0",
    "Pick.entryClose": "that supplied `entryOpen`",
    "PickMetric.hit": "above the benchmark's for a BUY, and below it for a SELL",
    "Correction.field": "such as `vs_benchmark_pct`",
    "Generation.systemPrompt": "instructions",
    "Generation.promptTokens": "Null if the provider did not report it",
    "JournalEntry.at": "The time of the recorded event",
    "BatchCounts.total": "of every status",
    "Interval.low": "in the unit of the parent field",
    "RandomActions.draws": "The number of random draws",
    "Look.sharePct": "significance level that this check spends",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_description_has_content(name):
    assert CONTENTS[name] in dict(described())[name].description


def test_the_schema_has_a_glossary():
    """It explains the words of the record, one in each line, and where to start."""
    words = re.findall(r"^- \*\*([a-z -]+)\*\*: ", schema.description, re.MULTILINE)
    assert {"series", "batch", "pick", "checkpoint", "result", "reading", "journal"} <= {*words}
    assert "Start with `latestBatch`" in schema.description
    assert schema.description in print_sdl()


def test_only_reads():
    """The operator's actions are the command line's."""
    assert (schema.mutation_type, schema.subscription_type) == (None, None)


def test_graphql_core_is_not_shadowed():
    """
    The folder `graphql` is a source root: as a package it would hide the library of that name.
    """
    assert not (ROOT / "graphql" / "__init__.py").exists()
    assert "site-packages" in graphql.__file__


@pytest.mark.parametrize("name", ["BatchConnection", "PickConnection", "JournalConnection"])
def test_lists_are_alike(name):
    assert list(OURS[name].fields) == ["edges", "nodes", "pageInfo"]
