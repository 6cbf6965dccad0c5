"""Small SQuAD files of our own sentences."""

import json

CONTEXT = "Mara sailed to Oran in May. Her brother stayed."


def qa(key="q1", question="Where did Mara sail?", answer="Oran", start=15, **more):
    return {"id": key, "question": question, "answers": [{"text": answer, "answer_start": start}], **more}


def article(*questions, title="Mara", context=CONTEXT):
    return {"title": title, "paragraphs": [{"context": context, "qas": list(questions)}]}


def squad(*articles):
    return {"data": list(articles), "version": "1.1"}


def write(root, name, document, indent=None):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document, indent=indent))
    return path
