# Starts a Slurm of two nodes on this machine, which ends with the shell that reads this file.
#
# Needs root, slurm-wlm and munge (Debian's packages). WORK: folder for its files. CPUS: of each
# node, 8 by default.

export SLURM_CONF=$WORK/slurm/slurm.conf LOGNAME=${LOGNAME:-root}
mkdir -p "$WORK/slurm/state" /run/munge
host=$(hostname -s)

cat > "$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
StateSaveLocation=$WORK/slurm/state
SlurmdSpoolDir=$WORK/slurm/spool-%n
SlurmctldPidFile=$WORK/slurm/slurmctld.pid
SlurmdPidFile=$WORK/slurm/slurmd-%n.pid
SlurmctldLogFile=$WORK/slurm/slurmctld.log
SlurmdLogFile=$WORK/slurm/slurmd-%n.log
MinJobAge=3600
KillWait=5
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=${CPUS:-8} RealMemory=64000 Gres=gpu:1
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=${CPUS:-8} RealMemory=64000 Gres=gpu:1
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
# The GPU exists only in name: the scripts ask for one, but ddae-app finds none and uses the CPU.
printf "AutoDetect=off\nName=gpu File=/dev/null\n" > "$WORK/slurm/gres.conf"

chown munge: /run/munge
pgrep -x munged > /dev/null || runuser -u munge -- munged --force
slurmctld
slurmd -N n1
slurmd -N n2
trap 'kill $(cat "$WORK"/slurm/*.pid)' EXIT
until [ "$(sinfo -h -N -o %T 2> /dev/null | grep -c idle)" = 2 ]; do sleep 1; done
