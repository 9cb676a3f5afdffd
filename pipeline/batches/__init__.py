"""From a store to the batches of world-model training: order, decoding, assembly, loading."""
