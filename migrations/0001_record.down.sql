DROP TABLE corrections, generations, pick_checkpoint_metrics, checkpoints, picks, batches, splits, closes;
DROP FUNCTION refuse_change, a_computed_checkpoint_never_goes_back, metric_belongs_to_its_checkpoint, checkpoint_belongs_to_its_batch;
