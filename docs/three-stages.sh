#!/usr/bin/env bash
# An MoE in three stages: experts trained apart, then the gate, then all together (Branch-Train-MiX, arXiv 2403.07816, with a gate stage).
#
#   bash docs/three-stages.sh OUT        # from the folder that holds recipes/; makes OUT, a few minutes on 2 CPU cores
#
# Four made-up languages share 52 letters (corpus synthetic); docs/mixing.md has what comes out, over seeds.
set -euo pipefail

out=${1:?usage: bash docs/three-stages.sh OUT}
mkdir "$out"

# 0. A dense seed model, on a little text of all four languages.
moecli train recipes/mix-branch.yaml --set training.steps=400 --out "$out/seed"

# 1. Four branches begin with its weights, and each is trained on one language.
for domain in 0 1 2 3; do
  moecli convert "$out/seed" "$out/branch-$domain" --to moecli --set "data.corpus.domains=[$domain]" --set training.steps=300
  moecli train "$out/branch-$domain/recipe.yaml" --out "$out/branch-$domain" --resume
done

# 2. Their feed-forward networks become experts, the rest is averaged, and the gate alone is trained on all languages.
moecli convert "$out"/branch-{0,1,2,3} "$out/gate" --mix --recipe recipes/mix-gate.yaml
moecli train "$out/gate/recipe.yaml" --out "$out/gate" --resume

# 3. All of it is trained.
moecli convert "$out/gate" "$out/joint" --to moecli --recipe recipes/mix-joint.yaml
moecli train "$out/joint/recipe.yaml" --out "$out/joint" --resume

# Which expert took which language.
moecli eval "$out/joint"
moecli route-stats "$out/joint" --by domain
