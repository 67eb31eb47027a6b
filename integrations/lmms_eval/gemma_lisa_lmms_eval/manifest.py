"""The entry point that makes `--model gemma_lisa` known to lmms-eval."""

from lmms_eval.models.registry_v2 import ModelManifest

MANIFEST = ModelManifest(model_id="gemma_lisa", simple_class_path="gemma_lisa_lmms_eval.model.GemmaLisa")
