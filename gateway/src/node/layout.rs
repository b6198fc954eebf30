//! Who owns what on this node: namespaces, their shards, the logs that hold them and the cores
//! that serve the logs. Made once at start and shared, unchanged, by all cores.

use omnirelay_queue::{
    Options, Ordering, Secret, SequenceId, ShardId, ShardSpec, shard_index_of_key,
    shard_index_of_resource,
};

use super::backpressure::Watermarks;

/// How long a mutation must have lasted before its reply leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The reply leaves at once; the record reaches the disk soon after.
    Memory,
    /// The reply leaves when the record has been synced to this node's disk.
    Disk,
}

impl Durability {
    /// The contract's name, as it stands in receipts and configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Disk => "disk",
        }
    }
}

/// A namespace's position in [`Layout::namespaces`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceId(pub u16);

/// One of the node's logs: a position in the node's list of logs, fixed with the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogId(pub u16);

/// A core's position among the cores that serve (not its CPU number).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(pub u16);

/// One namespace as this node serves it.
#[derive(Debug, Clone)]
pub struct Namespace {
    /// The name in procedures, `resourcelease` by default.
    pub name: String,
    /// Its first shard; the others follow it without a gap.
    pub first_shard: ShardId,
    /// How many shards it has, fixed when the namespace was made.
    pub shards: u32,
    /// What a reply waits for.
    pub durability: Durability,
    /// Options of each of its shards: limits are a shard's share.
    pub options: Options,
    /// When it holds enqueues back, over all its shards.
    pub watermarks: Watermarks,
    /// Names it among clusters: with a sequence id it names an item anywhere.
    pub origin: [u8; 16],
    /// Signs lease ids.
    pub secret: Secret,
    /// Numbers may have been given out that are not in the log: each open leaves some out.
    pub skips: bool,
}

impl Namespace {
    /// The shard that an item's number names.
    pub fn shard_of(&self, item: SequenceId) -> ShardId {
        let index = item.0 % u64::from(self.shards);
        ShardId(self.first_shard.0 + u32::try_from(index).expect("less than the shards"))
    }

    /// What the `index`th shard of this namespace is made with.
    pub fn shard_spec(&self, index: u32) -> ShardSpec {
        ShardSpec {
            shard: ShardId(self.first_shard.0 + index),
            index,
            count: self.shards,
            secret: self.secret,
            origin: self.origin,
        }
    }
}

/// The node's immutable map from names and shards to logs and cores.
#[derive(Debug)]
pub struct Layout {
    namespaces: Vec<Namespace>,
    /// By shard id: the namespace that owns it.
    shards: Vec<NamespaceId>,
    logs: u16,
    cores: u16,
}

impl Layout {
    /// Joins namespaces whose shards are numbered from 0 without gaps.
    ///
    /// # Panics
    /// If shard numbers have gaps or overlap, or there is no log or no core: the catalog that
    /// hands the numbers out never makes such a set.
    pub fn new(namespaces: Vec<Namespace>, logs: u16, cores: u16) -> Layout {
        assert!(
            logs > 0 && cores > 0,
            "a node has at least one log and one core"
        );
        let mut shards = Vec::new();
        let mut order: Vec<usize> = (0..namespaces.len()).collect();
        order.sort_by_key(|&i| namespaces[i].first_shard);
        for i in order {
            let namespace = &namespaces[i];
            assert_eq!(
                namespace.first_shard.0 as usize,
                shards.len(),
                "shard numbers have no gaps"
            );
            let id = NamespaceId(u16::try_from(i).expect("fewer than 65,536 namespaces"));
            shards.extend((0..namespace.shards).map(|_| id));
        }
        Layout {
            namespaces,
            shards,
            logs,
            cores,
        }
    }

    /// All namespaces, indexed by [`NamespaceId`].
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// The namespace with this id.
    pub fn namespace(&self, id: NamespaceId) -> &Namespace {
        &self.namespaces[usize::from(id.0)]
    }

    /// Finds a namespace by the name callers use.
    pub fn find_namespace(&self, name: &str) -> Option<NamespaceId> {
        let at = self.namespaces.iter().position(|n| n.name == name)?;
        u16::try_from(at).ok().map(NamespaceId)
    }

    /// The namespace that owns a shard, if there is such a shard on this node.
    pub fn namespace_of(&self, shard: ShardId) -> Option<NamespaceId> {
        self.shards.get(shard.0 as usize).copied()
    }

    /// The shard that a new item goes to: its resource's, or its key's if it came with one.
    pub fn shard_for(
        &self,
        namespace: NamespaceId,
        key: Option<&str>,
        (kind, resource): (&str, &str),
    ) -> ShardId {
        let namespace = self.namespace(namespace);
        // Only a resource's own shard can keep its items in order.
        let is_ordered = namespace.options.ordering == Ordering::PerResource;
        let index = match key.filter(|_| !is_ordered) {
            Some(key) => shard_index_of_key(key, namespace.shards),
            None => shard_index_of_resource(kind, resource, namespace.shards),
        };
        ShardId(namespace.first_shard.0 + index)
    }

    /// All shards of the node.
    pub fn shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        (0..self.shards.len()).map(|i| ShardId(u32::try_from(i).expect("shard ids fit 20 bits")))
    }

    /// How many logs the data directory has.
    pub fn logs(&self) -> u16 {
        self.logs
    }

    /// How many cores serve.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// The log that holds a shard's records.
    pub fn log_of(&self, shard: ShardId) -> LogId {
        LogId(u16::try_from(shard.0 % u32::from(self.logs)).expect("less than the number of logs"))
    }

    /// The core that serves a log.
    pub fn core_of(&self, log: LogId) -> CoreId {
        CoreId(log.0 % self.cores)
    }

    /// The logs that a core serves, in order.
    pub fn logs_of(&self, core: CoreId) -> impl Iterator<Item = LogId> + '_ {
        (0..self.logs)
            .map(LogId)
            .filter(move |&log| self.core_of(log) == core)
    }
}
