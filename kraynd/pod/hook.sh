# postStart of the head: start the services, detached, and succeed. Arguments: program, settings (JSON), folder.
# A hook that fails kills the container and one that waits holds the pod back, so this does neither, whatever happens.
log=$3/bootstrap.log
(umask 077; mkdir -p "$3"; : >>"$log") 2>/dev/null || log=/dev/null
# Ray's own Python comes first: the notebook needs its packages.
beside_ray=$(command -v ray 2>/dev/null)
for python in "${beside_ray%/*}/python" python3 python /home/ray/anaconda3/bin/python; do
  case $python in /python) continue ;; esac
  command -v "$python" >/dev/null 2>&1 || continue
  # Program and settings go by environment: anybody may read a process's arguments, and `ray stop` kills by them.
  # The current folder leaves the path, so that no file of the user's stands in for a module.
  KRAYNE_PROGRAM=$1 KRAYNE_SETTINGS=$2 "$python" -c '
import sys
sys.path.pop(0)
import os, types
for part in os.environ.pop("KRAYNE_PROGRAM").split("#: module ")[1:]:
    name, _, text = part.partition("\n")
    sys.modules[name] = types.ModuleType(name)
    exec(compile(text, name, "exec"), sys.modules[name].__dict__)
sys.modules["kraynd.pod.main"].main()
' krayne-services </dev/null >>"$log" 2>&1 &
  exit 0
done
echo "no Python in this image: the services cannot start" >>"$log"
exit 0
