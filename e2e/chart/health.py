"""Runs the health script that examples/cluster/argocd/health.yaml gives to Argo CD, on objects in the states that ours can have.

The states and what they mean are those of crds/src/conditions.rs. Argo CD's Lua is 5.1."""

import sys

import lupa.lua51 as lupa
import yaml


def obj(conditions, observed=2, generation=2):
    conditions = [{"type": kind, "status": status, "reason": "Because", "message": "words"} for kind, status in conditions]
    return {"metadata": {"generation": generation}, "status": {"observedGeneration": observed, "conditions": conditions}}


CASES = [
    ("ready", obj([("Ready", "True")]), "Healthy"),
    ("reconciling", obj([("Ready", "False"), ("Reconciling", "True")]), "Progressing"),
    ("stalled", obj([("Ready", "False"), ("Stalled", "True")]), "Degraded"),
    ("stalled, said first", obj([("Stalled", "True"), ("Ready", "False")]), "Degraded"),
    ("expired", obj([("Expired", "True")]), "Healthy"),
    ("changed since it was looked at", obj([("Ready", "True")], observed=1), "Progressing"),
    ("nobody has looked at it yet", obj([], observed=-1), "Progressing"),
    ("without any status", {"metadata": {"generation": 1}}, "Progressing"),
    ("without conditions", {"metadata": {"generation": 1}, "status": {"observedGeneration": 1}}, "Progressing"),
]


def table(lua, value):
    if isinstance(value, dict):
        return lua.table_from({key: table(lua, inner) for key, inner in value.items()})
    if isinstance(value, list):
        return lua.table_from([table(lua, inner) for inner in value])
    return value


data = yaml.safe_load(open(sys.argv[1]))["data"]
wrong, runs = [], 0
for kind in ("Bucket", "BucketSnapshot", "BucketFork"):
    script = data[f"resource.customizations.health.anabranch.dev_{kind}"]
    for name, value, expected in CASES:
        lua = lupa.LuaRuntime()
        lua.globals()["obj"] = table(lua, value)
        health = lua.execute(script)
        runs += 1
        if health["status"] != expected or not health["message"]:
            wrong.append(f"Argo CD's health of a {kind} that is {name}: {health['status']} ({health['message']}), not {expected}")
print("\n".join(wrong) or f"chart: Argo CD's health of our kinds is right in {runs} runs")
sys.exit(bool(wrong))
