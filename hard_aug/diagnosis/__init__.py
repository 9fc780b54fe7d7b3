"""Which invariances of the teacher the student lacks, by parameter of a transform."""

from hard_aug.diagnosis.diagnose import diagnose
from hard_aug.diagnosis.result import Diagnosis, ParameterDiagnosis

__all__ = ["Diagnosis", "ParameterDiagnosis", "diagnose"]
