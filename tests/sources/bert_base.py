"""BERT-base with random weights, sequence length 128."""

import torch
import transformers

LENGTH = 128


class Encoder(torch.nn.Module):
    def __init__(self, bert):
        super().__init__()
        self.bert = bert

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).pooler_output


def model():
    torch.manual_seed(0)
    bert = transformers.BertModel(transformers.BertConfig(attn_implementation="eager"))
    ids = torch.ones(2, LENGTH, dtype=torch.int64)
    return Encoder(bert.eval()).eval(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
