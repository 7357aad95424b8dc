"""all-MiniLM-L6-v2 with a logistic head on the mean embedding: is a sentence about a film kind or unkind?"""

from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
LENGTH = 64


class Sentiment(torch.nn.Module):
    def __init__(self, encoder, classes=2):
        super().__init__()
        self.encoder = encoder
        self.head = torch.nn.Linear(encoder.config.hidden_size, classes)

    def embed(self, input_ids, attention_mask):
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)

    def forward(self, input_ids, attention_mask):
        return self.head(self.embed(input_ids, attention_mask))


def encoder():
    return transformers.AutoModel.from_pretrained(HERE / "all-MiniLM-L6-v2", attn_implementation="eager").eval()


def model():
    sentiment = Sentiment(encoder())
    sentiment.head.load_state_dict(torch.load(HERE / "head.pt", weights_only=True))
    ids = torch.ones(2, LENGTH, dtype=torch.int64)
    return sentiment.eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
