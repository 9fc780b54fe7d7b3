"""Which invariances of the teacher the student lacks, by parameter of a transform."""

from hard_aug.diagnosis.diagnose import diagnose
from hard_aug.diagnosis.result import Diagnosis, ParameterDiagnosis
from hard_aug.diagnosis.teacher_score import TeacherScore, teacher_stddev

__all__ = ["Diagnosis", "ParameterDiagnosis", "TeacherScore", "diagnose", "teacher_stddev"]
