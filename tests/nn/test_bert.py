import pytest
import torch
from transformers import BertConfig as TheirConfig
from transformers import BertModel

from sfumato.nn.bert import Bert, BertConfig
from sfumato.recipes.text_minilm import convert

SMALL = BertConfig(vocabulary=40, width=24, layers=3, heads=4, mlp=56, positions=16)


def theirs() -> BertModel:
    """A transformers BertModel of the same shape, every parameter of it drawn at random, norms included."""
    model = BertModel(
        TheirConfig(
            vocab_size=SMALL.vocabulary,
            hidden_size=SMALL.width,
            num_hidden_layers=SMALL.layers,
            num_attention_heads=SMALL.heads,
            intermediate_size=SMALL.mlp,
            max_position_embeddings=SMALL.positions,
            layer_norm_eps=SMALL.eps,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.double().eval()


def ours(model: BertModel) -> Bert:
    bert = Bert(SMALL).double()
    bert.load_state_dict(convert(model.state_dict()))
    return bert


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, SMALL.vocabulary, (5, 11))
    lengths = torch.tensor([11, 1, 4, 7, 2])
    return ids, torch.arange(11) < lengths[:, None]


@pytest.mark.parametrize("seed", range(3))
def test_is_the_function_of_transformers(seed: int) -> None:
    torch.manual_seed(seed)
    model = theirs()
    ids, mask = padded_batch()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        found = ours(model)(ids, mask)
    assert expected[mask].std() > 0.1
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_transformers() -> None:
    torch.manual_seed(5)
    model = theirs()
    bert = ours(model)
    ids, mask = padded_batch()
    model(input_ids=ids, attention_mask=mask.long()).last_hidden_state[mask].square().sum().backward()
    bert(ids, mask)[mask].square().sum().backward()
    expected = convert(
        {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    )
    for name, value in bert.named_parameters():
        if name == "places.weight":  # its gradient there is split between positions and token types
            continue
        assert value.grad is not None
        # transformers gives the padding word, 0, no gradient
        rows = slice(1, None) if name == "words.weight" else slice(None)
        torch.testing.assert_close(value.grad[rows], expected[name][rows], rtol=1e-8, atol=1e-8)


def test_padding_does_not_matter() -> None:
    torch.manual_seed(1)
    bert = Bert(SMALL).double()
    ids, mask = padded_batch()
    changed = torch.where(mask, ids, (ids + 7) % SMALL.vocabulary)
    with torch.no_grad():
        found = bert(ids, mask)
        torch.testing.assert_close(bert(changed, mask)[mask], found[mask], rtol=0, atol=1e-12)
        torch.testing.assert_close(bert(ids[2:3, :4], mask[2:3, :4])[0], found[2, :4], rtol=0, atol=1e-12)


def test_too_many_tokens() -> None:
    ids = torch.zeros(1, SMALL.positions + 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="17 tokens are more than the 16 positions"):
        Bert(SMALL)(ids, torch.ones_like(ids, dtype=torch.bool))


@pytest.mark.parametrize(
    "numbers", [{"heads": 5}, {"layers": 0}, {"eps": 0.0}, {"vocabulary": -1}, {"positions": 0}]
)
def test_impossible_numbers(numbers: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        BertConfig(
            **({"vocabulary": 9, "width": 8, "layers": 1, "heads": 2, "mlp": 8, "positions": 4} | numbers)
        )
