//! How often each kind of fault really happened. A suite in which one never did has not tested it.

use std::fmt;

macro_rules! faults {
    ($($(#[$doc:meta])+ $name:ident $text:literal;)+) => {
        /// A kind of fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])+ $name),+ }

        impl Fault {
            /// Every kind.
            pub const ALL: &[Fault] = &[$(Fault::$name),+];

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$name => $text),+ }
            }
        }
    };
}

faults! {
    /// Power fails between two steps of the node.
    CrashBetweenSteps "crash between steps";
    /// Power fails right after a reply has left.
    CrashAfterReply "crash after a reply";
    /// Power fails within a write or sync.
    CrashInDisk "crash in a disk operation";
    /// The process is killed; the disk keeps what it was given.
    Kill "process killed";
    /// Power fails again before the node is open.
    CrashInRecovery "crash before the node is open";
    /// Unsynced sectors were lost.
    SectorsLost "unsynced sectors lost";
    /// A sector was half written.
    TornSector "torn sector";
    /// A file's making, renaming or removal was undone.
    NameLost "directory change lost";
    /// A write failed half done and took the log with it.
    FailedWrite "failed write";
    /// A sync failed and took the log with it.
    FailedSync "failed sync";
    /// The disk was full when asked for a segment.
    DiskFull "disk full";
    /// An enqueue was refused for lack of room.
    StorageRefused "enqueue refused by a full disk";
    /// The wall clock was set back between two lives.
    WallBack "wall clock set back";
    /// The wall clock was set forward between two lives.
    WallForward "wall clock set forward";
    /// A message stayed in a ring for long.
    RingDelay "ring delay";
    /// A ring had no room.
    RingFull "ring full";
    /// A reply left and never arrived.
    LostReply "lost reply";
    /// A grant could not be delivered and was given back.
    UndeliveredGrant "undelivered grant";
    /// A caller went away while its call was open.
    CancelledCall "cancelled call";
    /// A call's deadline passed before its outcome was certain.
    DeadlinePassed "deadline passed";
    /// A node came back with another number of cores.
    OtherCores "restart with other cores";
    /// A log thread took long.
    SlowLog "slow log thread";
    /// A payload had to be read off the core.
    SlowRead "payload read off the core";
    /// A memory namespace lost what it had acknowledged.
    MemoryLoss "memory namespace loss";
    /// A node ended in order and came back.
    CleanRestart "clean restart";
    /// A namespace was at capacity.
    Backpressure "backpressure";
    /// A token was used after its lease.
    StaleToken "stale token used";
    /// A sync said that it was done, and was not.
    LyingSync "lying sync";
    /// After lying syncs a log was refused by name.
    LieFound "log refused after lying syncs";
    /// After lying syncs a log went on with less.
    LieLost "acknowledged work lost to lying syncs";
    /// A flipped bit kept a log from being opened.
    RotFound "flipped bit found at opening";
    /// A flipped bit lay where nothing is needed.
    RotHarmless "flipped bit where nothing is needed";
    /// A bit flipped while the node ran.
    RotRunning "bit flipped in a running log";
    /// An item's bytes could not be read; nobody was given them.
    Unreadable "unreadable item";
    /// A read failed.
    ReadError "failed read";
    /// A rename or removal failed.
    NameError "failed rename or removal";
    /// A log could not be opened because of such an error, and could the next time.
    OpenError "opening refused by the disk";
    /// The node's clock stood still and leapt.
    ClockJitter "clock that stands still and leaps";
    /// An enqueue waited for its namespace to have room.
    GateClosed "enqueue held back at a watermark";
    /// A reader got records of a log that its node does not need any more.
    HistoryKept "history read below the floor";
    /// A log's oldest segment was given up and became a spare.
    Recycled "segment recycled";
    /// A log's oldest segment was given up and removed.
    Trimmed "segment removed";
    /// A segment could not be given up because the disk refused.
    FailedRetire "segment not given up";
    /// A recycled segment was filled with other bytes.
    Scribbled "recycled segment scribbled on";
    /// Something was written again so that its segment could go.
    Carried "carried to the log's end";
    /// Items were taken out.
    Drained "items drained";
    /// A bundle was asked for again.
    DrainedAgain "bundle asked for again";
    /// Items were taken in.
    Restored "items restored";
    /// A bundle was taken in again.
    RestoredAgain "bundle restored again";
    /// An item was taken away.
    Cancelled "item cancelled";
    /// A dead letter was revived.
    Redriven "dead letter redriven";
    /// A worker asked for one partition key.
    KeyedLease "lease by partition key";
    /// A page of items was read.
    Listed "page of items";
    /// An enqueue was sent again under its request id.
    Duplicate "duplicate request id";
}

/// Counts by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hits([u64; Fault::ALL.len()]);

impl Default for Hits {
    fn default() -> Self {
        Hits([0; Fault::ALL.len()])
    }
}

impl Hits {
    /// Counts one.
    pub fn hit(&mut self, fault: Fault) {
        self.add(fault, 1);
    }

    /// Counts some.
    pub fn add(&mut self, fault: Fault, times: u64) {
        self.0[fault as usize] += times;
    }

    /// How often it happened.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How often any happened.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Hits) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// Kinds that never happened.
    pub fn missing(&self) -> Vec<&'static str> {
        let never = Fault::ALL.iter().filter(|&&fault| self.of(fault) == 0);
        never.map(|fault| fault.name()).collect()
    }
}

impl fmt::Display for Hits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &fault in Fault::ALL {
            writeln!(f, "{:>10}  {}", self.of(fault), fault.name())?;
        }
        Ok(())
    }
}
