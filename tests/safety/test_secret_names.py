"""Secrets are recognized by the names of options, variables and recipe keys."""

import pytest

from gemma_lisa.safety.secret_names import _named_secrets, environment_secrets, is_secret_name, secrets_of

PLAIN = "correct-horse-battery"  # a secret that does not look like a token
pytestmark = pytest.mark.usefixtures("no_login")

SECRET_NAMES = (
    "PGPASSWORD SSHPASS mytoken private_keys HF_TOKEN hfToken api_key apiKeys OPENAI_API_KEY DB_PASS auth pwd "
)
SECRET_NAMES += (
    "AWS_ACCESS_KEY_ID client_secret GH_TOKEN HUGGING_FACE_HUB_TOKEN REPLICATE_API_TOKEN Authorization cookie"
)
OTHER_NAMES = (
    "forward_pass token_type answer_token first_token stop_token seg_token pad_token max_new_tokens token_ids "
)
OTHER_NAMES += (
    "tokenizer TOKENIZERS_PARALLELISM mean_token_accuracy primary_key sort_key author passes compass keypoints "
)
OTHER_NAMES += "num_input_tokens_seen special_tokens seg_token_id padToken secretary monkey bypass push_to_hub_model_id"


def test_secrets_come_from_the_command_line_the_recipe_and_the_environment(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("hub_token: of-the-recipe\nenv:\n  LOGIN: of-its-environment\n  N: '1'\nmodel: outputs/start\n")
    monkeypatch.setenv("WANDB_API_KEY", "of-the-tracker")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalse")
    monkeypatch.setenv("DB_PASSWORD", "password")  # a word that can occur in files by chance
    found = secrets_of(["--config", str(recipe), "--hub_token", "of-the-command"])
    assert found == {"of-the-recipe", "of-its-environment", "of-the-tracker", "of-the-command"}
    monkeypatch.setenv("PWD", "/srv/of/somebody")
    assert "/srv/of/somebody" not in environment_secrets()


def test_shared_and_recursive_values_are_searched_once():
    shared = [{"token": PLAIN}]
    for _ in range(60):
        shared = [shared, shared]
    shared.append(shared)
    assert _named_secrets(shared) == {PLAIN}


def test_secret_names_are_distinguished_from_other_names():
    assert [name for name in SECRET_NAMES.split() if not is_secret_name(name)] == []
    assert [name for name in OTHER_NAMES.split() if is_secret_name(name)] == []


def test_key_variables_with_names_of_columns_are_not_secrets(monkeypatch):
    for name, value in (("PRIMARY_KEY", "image_id_of_the_row"), ("SORT_KEY", "created_at"), ("S_KEY", "a1" * 10)):
        monkeypatch.setenv(name, value)
    assert environment_secrets() == {"a1" * 10: "the environment variable S_KEY"}
