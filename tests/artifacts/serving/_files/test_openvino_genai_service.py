"""The service of OpenVINO GenAI over HTTP answers as the runtime that judged the model."""

import pytest

from mopt.passes.language.export_openvino_genai import ExportOpenvinoGenai
from mopt.runtimes.language._base import LanguageProcess
from mopt.runtimes.language.openvino_genai import OpenvinoGenai
from tests.artifacts.serving._files.served_language import check_answers, serving
from tests.genai import exported, lacking
from tests.language_models import TinyModel

MISSING = lacking("openvino_genai")


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_it_answers_as_the_runtime(tmp_path):
    source = TinyModel().write(tmp_path / "source")
    model, _ = exported(ExportOpenvinoGenai(weights="int8"), source, tmp_path / "out")
    prompt = [1, 300, 310, 320]
    with LanguageProcess(OpenvinoGenai(threads=2, context=256), model) as session:
        ids = session.generate(prompt, 16).ids
        text = session.detokenize([*prompt, *ids]).removeprefix(session.detokenize(prompt))
    with serving("openvino_genai", model, tmp_path / "served", context=200) as client:
        check_answers(client, ids, prompt, text)
