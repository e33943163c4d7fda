"""From a folder of DICOM-RT files to cases: studies, CT, contours, dose, plan. Needs ``pip install 'monai_vmat[dicom]'``."""
