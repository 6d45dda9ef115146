"""The catalog: every rule, in the order of its id."""

from lipaudit.gates import certainty, limits, precision, regression, safety, upkeep

RULES = (
    limits.BOUND_OVER_LIMIT,
    limits.NORM_OVER_LIMIT,
    certainty.NON_FINITE_WEIGHTS,
    certainty.NOT_CERTIFIED,
    safety.DANGEROUS_PICKLE,
    regression.INCREASE,
    certainty.ASSUMED_TOPOLOGY,
    precision.PRECISION,
    upkeep.EXPIRED_IGNORE,
)
INFOS = tuple(rule.info for rule in RULES)
IDS = tuple(rule.id for rule in RULES)
