# Ours on the command line: checkpoint, rows, folder. A Q/DQ graph for TensorRT, with tokenizer and manifest.
qdq calibrate "$1" --task text-classification --data "$2" --limit 512 --out "$3/calibrated"
qdq export "$3/calibrated" --out "$3/onnx"
