//! What the set is told of jobs.

use qbulk::traffic::{Input, JobId, Plan};

use super::{AFTERWARDS, Sim};
use crate::job::{Begins, Work};

impl Sim<'_> {
    /// Jobs begin, are offered what there is, accepted and ended.
    pub(super) fn tell_of_jobs(&mut self) {
        let network = self.network;
        for (index, work) in network.jobs.iter().enumerate() {
            let id = JobId(index as u64);
            if self.jobs[index].over_at.is_some() || !self.has_begun(id, work) {
                continue;
            }
            self.offer(id, work);
            let job = &self.jobs[index];
            let age = self.at.saturating_sub(job.began_at.expect("begun"));
            let is_called_off = work.called_off.is_some_and(|off| age >= off);
            if job.drained_at.is_some_and(|at| self.at >= at + AFTERWARDS) {
                let plan = self.set.plan(id).expect("it has not ended");
                self.outcome.bytes += job.check(work, plan);
                self.end(id);
            } else if is_called_off {
                self.end(id);
            }
        }
    }

    /// Whether a job has begun by now.
    fn has_begun(&mut self, id: JobId, work: &Work) -> bool {
        let index = id.0 as usize;
        let is_due = match work.begins {
            Begins::At(at) => self.at >= at,
            Begins::Then(pause) => {
                let mut earlier = self.jobs[..index].iter();
                earlier.all(|job| job.over_at.is_some_and(|at| self.at >= at + pause))
            }
        };
        if is_due && self.jobs[index].began_at.is_none() {
            self.jobs[index].began_at = Some(self.at);
            self.tell(Input::Begun { job: id, weight: work.weight });
        }
        is_due
    }

    fn offer(&mut self, id: JobId, work: &Work) {
        let job = &mut self.jobs[id.0 as usize];
        let began_at = job.began_at.expect("begun");
        let age = self.at.saturating_sub(began_at);
        let rest = &work.items[job.offered..];
        let due: Vec<_> =
            rest.iter().take_while(|(at, _)| *at <= age).map(|&(_, item)| item).collect();
        job.offered += due.len();
        let ends = job.offered == work.items.len() && age >= work.source_done && !job.source_done;
        job.source_done |= ends;
        let accepts_after = self.network.server.accepts_after;
        let accepts_at = self.up_at.map(|up_at| up_at.max(began_at) + accepts_after);
        let accepts = accepts_at.is_some_and(|at| at <= self.at) && !job.accepted;
        job.accepted |= accepts;
        if !due.is_empty() {
            self.tell(Input::Offered(id, due));
        }
        if ends {
            self.tell(Input::SourceDone(id));
        }
        if accepts {
            self.tell(Input::Accepted(id));
        }
    }

    /// A job is over, or called off.
    fn end(&mut self, id: JobId) {
        self.tell(Input::Ended(id));
        let job = &mut self.jobs[id.0 as usize];
        job.over_at = Some(self.at);
        self.flying_bytes -= job.flying.drain().map(|(_, bytes)| bytes).sum::<u64>();
        assert!(self.set.plan(id).is_none(), "it is forgotten");
    }

    /// Whether data waits, or the last of it is being sent.
    pub(super) fn is_data_under_way(&self) -> bool {
        self.jobs.iter().enumerate().any(|(index, job)| {
            let plan = self.set.plan(JobId(index as u64));
            let has_waiting = || plan.is_some_and(Plan::has_waiting);
            job.is_there() && job.accepted && (job.source_done || has_waiting())
        })
    }
}
