-- The entries about further benchmarks stay in the journal: an older version reads them as links of the chain.
DROP TABLE further_benchmarks;
DROP FUNCTION further_benchmark_only_with_a_correction();
DROP FUNCTION further_benchmark_belongs_to_its_batch();
