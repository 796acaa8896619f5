//! What a run has reached.

use std::ops::AddAssign;

/// What was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Host commands.
    pub commands: u64,
    /// Such that failed, after more was lost than the group survives.
    pub failed: u64,
    /// Such that waited for nodes that were not there, where the group was not served any more.
    pub unserved: u64,
    /// Drive commands.
    pub drive_commands: u64,
    /// Messages between nodes.
    pub messages: u64,
    /// Packets that carry them.
    pub packets: u64,
    /// Packets that were lost.
    pub packets_lost: u64,
    /// Epochs decided.
    pub epochs: u64,
    /// Epochs opened.
    pub opened: u64,
    /// Lives that began.
    pub lives: u64,
    /// Lives that were left out while they lived.
    pub evicted: u64,
    /// Lives that left in good order.
    pub left: u64,
    /// Lives that were paused.
    pub pauses: u64,
    /// Members of the group that were lost.
    pub lost: u64,
    /// Recoveries in whose midst a drive failed, or came back.
    pub strikes: u64,
    /// Power cuts of everything.
    pub cuts: u64,
    /// Replays beside nodes that go on.
    pub replays: u64,
    /// Rows that they brought up to date.
    pub rows: u64,
    /// Epochs that began while a recovery was under way.
    pub interrupted: u64,
    /// Slots taken by another life in an epoch that a node has skipped.
    pub quick_restarts: u64,
    /// Nodes that were still to step down when another epoch began.
    pub stale_orders: u64,
    /// Recoveries in which the group failed or was refused.
    pub failed_recoveries: u64,
    /// A failed group was to be opened beside engines that live.
    pub opened_beside: u64,
    /// The pen went to another node, and nobody was gone.
    pub handovers: u64,
    /// Records of leaders that came to followers before they served.
    pub led_early: u64,
    /// Rows that went to another node with their dirty data.
    pub adopted: u64,
    /// Rows whose dirty data came back to who had given it.
    pub restored: u64,
    /// Batches that all partners had in memory.
    pub copies_kept: u64,
    /// Batches of which a writer heard that they were sent.
    pub sent: u64,
    /// Runs that ended because nodes were gone with all who kept copies for them.
    pub confessed: u64,
    /// Copies of batches that recoveries were given.
    pub copies_read: u64,
    /// Replication groups of which all nodes went at once.
    pub groups_ended: u64,
}

impl Counters {
    /// All of them by name, for people.
    pub const fn figures(&self) -> [(&'static str, u64); 32] {
        [
            ("host commands", self.commands),
            ("of them failed", self.failed),
            ("of them not served", self.unserved),
            ("drive commands", self.drive_commands),
            ("messages", self.messages),
            ("packets", self.packets),
            ("packets lost", self.packets_lost),
            ("epochs", self.epochs),
            ("of them opened", self.opened),
            ("lives", self.lives),
            ("of them left out alive", self.evicted),
            ("of them left in good order", self.left),
            ("pauses", self.pauses),
            ("members lost", self.lost),
            ("recoveries with a strike", self.strikes),
            ("power cuts", self.cuts),
            ("replays beside the living", self.replays),
            ("rows of theirs", self.rows),
            ("interrupted recoveries", self.interrupted),
            ("quick restarts", self.quick_restarts),
            ("stale step-downs", self.stale_orders),
            ("failed recoveries", self.failed_recoveries),
            ("openings refused beside engines", self.opened_beside),
            ("pens handed over", self.handovers),
            ("records before their epoch", self.led_early),
            ("dirty rows handed over", self.adopted),
            ("dirty rows given back", self.restored),
            ("batches kept by others", self.copies_kept),
            ("batches reported as sent", self.sent),
            ("copies read", self.copies_read),
            ("losses confessed", self.confessed),
            ("replication groups gone at once", self.groups_ended),
        ]
    }
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.commands += other.commands;
        self.failed += other.failed;
        self.unserved += other.unserved;
        self.drive_commands += other.drive_commands;
        self.messages += other.messages;
        self.packets += other.packets;
        self.packets_lost += other.packets_lost;
        self.epochs += other.epochs;
        self.opened += other.opened;
        self.lives += other.lives;
        self.evicted += other.evicted;
        self.left += other.left;
        self.pauses += other.pauses;
        self.lost += other.lost;
        self.strikes += other.strikes;
        self.cuts += other.cuts;
        self.replays += other.replays;
        self.rows += other.rows;
        self.interrupted += other.interrupted;
        self.quick_restarts += other.quick_restarts;
        self.stale_orders += other.stale_orders;
        self.failed_recoveries += other.failed_recoveries;
        self.opened_beside += other.opened_beside;
        self.handovers += other.handovers;
        self.led_early += other.led_early;
        self.adopted += other.adopted;
        self.restored += other.restored;
        self.copies_kept += other.copies_kept;
        self.sent += other.sent;
        self.confessed += other.confessed;
        self.copies_read += other.copies_read;
        self.groups_ended += other.groups_ended;
    }
}
