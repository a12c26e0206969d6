//! Which of many texts begin with a given one? A radix tree that forgets its texts in the order in which they came.
//!
//! No text is empty. Each has a number, one more than the text before it. A node stands for a beginning that several texts
//! share; it knows the newest of the texts that begin so, and borrows its own letters from that text: nothing is copied
//! into the tree. When the oldest text of all is forgotten, a node whose newest text it is has nothing else below it.
//!
//! A way down compares one byte a node, and the whole text once, at its end. Every node has at least two children, or a
//! text ends there, so there are at most twice as many nodes as texts.
//!
//! Not here: the texts themselves ([`Texts`]), and what they mean ([`super::visits`], [`super::waiting`]).

mod children;

use children::Children;

/// Where a text ends, or parts from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(u32);

const ROOT: NodeId = NodeId(0);

/// Who keeps the texts.
pub(super) trait Texts {
    /// The text with this number, which has not been forgotten.
    fn text(&self, number: u64) -> &[u8];
}

/// What belongs to a node, for the texts that end there.
pub(super) trait Payload: Default {
    /// Nothing that matters: the node need not stay if its texts are in others, too.
    fn is_idle(&self) -> bool;
}

/// The tree.
#[derive(Debug)]
pub(super) struct Prefixes<P> {
    nodes: Vec<Node<P>>,
    free: Vec<NodeId>,
    /// The nodes of the last way down, from the root on, as far as they agree with the text.
    path: Vec<NodeId>,
}

#[derive(Debug, Default)]
struct Node<P> {
    /// The newest text that goes through here or ends here.
    newest: u64,
    /// How many bytes such texts share.
    depth: u32,
    children: Children,
    payload: P,
}

/// A way down the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descent {
    /// How many bytes of the text are in the tree.
    common: usize,
    /// The first node that is deeper than that.
    below: Option<NodeId>,
}

impl<P: Payload> Prefixes<P> {
    pub(super) fn new() -> Self {
        Prefixes { nodes: vec![Node::default()], free: Vec::new(), path: Vec::new() }
    }

    /// Takes `text`, whose number is larger than all before it, and says at which node it ends.
    pub(super) fn insert(&mut self, texts: &impl Texts, number: u64, text: &[u8]) -> NodeId {
        let Descent { common, below } = self.descend(texts, text);
        for at in 0..self.path.len() {
            let node = self.path[at];
            self.node_mut(node).newest = number;
        }
        let last = *self.path.last().unwrap_or(&ROOT);
        let depth = self.node(last).depth as usize;
        let end = match below {
            Some(below) if depth < common => {
                let between = self.allocate(number, common);
                let apart = texts.text(self.node(below).newest)[common];
                self.node_mut(between).children.set(apart, below.0);
                self.node_mut(last).children.set(text[depth], between.0);
                between
            }
            _ => last,
        };
        if common == text.len() {
            return end;
        }
        let node = self.node_mut(end);
        if end != ROOT && node.children.is_empty() && node.payload.is_idle() {
            node.depth = text.len() as u32;
            return end;
        }
        let leaf = self.allocate(number, text.len());
        self.node_mut(end).children.set(text[common], leaf.0);
        leaf
    }

    /// Forgets the oldest text there is.
    pub(super) fn forget(&mut self, number: u64, text: &[u8]) {
        let mut at = ROOT;
        while let Some(&byte) = text.get(self.node(at).depth as usize) {
            let Some(child) = self.node(at).children.get(byte).map(NodeId) else {
                return;
            };
            if self.node(child).newest == number {
                self.node_mut(at).children.remove(byte);
                self.release(child);
                break;
            }
            at = child;
        }
        self.merge(at);
    }

    /// The newest text that begins with `prefix`; [`Prefixes::passed`] then tells the nodes on the way there.
    pub(super) fn newest(&mut self, texts: &impl Texts, prefix: &[u8]) -> Option<u64> {
        let Descent { common, below } = self.descend(texts, prefix);
        if common < prefix.len() {
            return None;
        }
        let end = below.or(self.path.last().copied()).filter(|&end| end != ROOT)?;
        Some(self.node(end).newest)
    }

    /// Goes down as far as `text` leads.
    pub(super) fn descend(&mut self, texts: &impl Texts, text: &[u8]) -> Descent {
        self.path.clear();
        self.path.push(ROOT);
        let mut at = ROOT;
        while let Some(&byte) = text.get(self.node(at).depth as usize) {
            let Some(child) = self.node(at).children.get(byte) else {
                break;
            };
            at = NodeId(child);
            self.path.push(at);
        }
        // Only now is anything compared but the bytes at which texts part.
        let deepest = self.node(at);
        let common = match deepest.depth {
            0 => 0,
            depth => common_prefix(text, &texts.text(deepest.newest)[..depth as usize]),
        };
        let mut below = None;
        while let Some(&last) = self.path.last().filter(|&&last| self.node(last).depth as usize > common) {
            below = Some(last);
            self.path.pop();
        }
        Descent { common, below }
    }

    /// The nodes of the last way down, deepest first, each with its depth: all of them stand for beginnings of the text.
    pub(super) fn passed(&self) -> impl Iterator<Item = (NodeId, usize)> {
        self.path.iter().rev().map(|&node| (node, self.node(node).depth as usize))
    }

    /// Up to `most` nodes whose texts are longer than the text of the last way down, but begin with it.
    pub(super) fn beyond(&self, descent: Descent, length: usize, most: usize) -> Vec<NodeId> {
        if descent.common < length {
            return Vec::new();
        }
        let mut found: Vec<NodeId> = match (descent.below, self.path.last()) {
            (Some(below), _) => vec![below],
            (None, Some(&last)) => self.node(last).children.iter().map(NodeId).collect(),
            (None, None) => Vec::new(),
        };
        let mut looked_at = 0;
        while looked_at < found.len() && found.len() < most {
            let children = self.node(found[looked_at]).children.iter();
            found.extend(children.map(NodeId));
            looked_at += 1;
        }
        found.truncate(most);
        found
    }

    /// The node at which `text` ends, if it is in the tree and there is one.
    pub(super) fn end_of(&self, text: &[u8]) -> Option<NodeId> {
        let mut at = ROOT;
        while let Some(&byte) = text.get(self.node(at).depth as usize) {
            at = NodeId(self.node(at).children.get(byte)?);
        }
        (self.node(at).depth as usize == text.len()).then_some(at)
    }

    pub(super) fn payload(&self, node: NodeId) -> &P {
        &self.node(node).payload
    }

    pub(super) fn payload_mut(&mut self, node: NodeId) -> &mut P {
        &mut self.node_mut(node).payload
    }

    /// How many nodes there are, the root included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    /// Makes one of a node and its only child, if nothing ends at the node that does not matter in the child, too.
    fn merge(&mut self, id: NodeId) {
        let node = self.node(id);
        let Some(child) = node.children.only().map(NodeId).filter(|_| id != ROOT && node.payload.is_idle())
        else {
            return;
        };
        if self.node(child).newest == node.newest {
            let child_itself = std::mem::take(self.node_mut(child));
            *self.node_mut(id) = child_itself;
            self.free.push(child);
        }
    }

    /// Gives back a node and all below it.
    fn release(&mut self, id: NodeId) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let node = std::mem::take(self.node_mut(id));
            gone.extend(node.children.iter().map(NodeId));
            self.free.push(id);
        }
    }

    fn allocate(&mut self, newest: u64, depth: usize) -> NodeId {
        let node = Node { newest, depth: depth as u32, ..Node::default() };
        if let Some(id) = self.free.pop() {
            *self.node_mut(id) = node;
            return id;
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(node);
        id
    }

    fn node(&self, id: NodeId) -> &Node<P> {
        &self.nodes[id.0 as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node<P> {
        &mut self.nodes[id.0 as usize]
    }
}

/// How many bytes two texts begin with that are the same.
fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    const STEP: usize = 32;
    let length = one.len().min(other.len());
    let (one, other) = (&one[..length], &other[..length]);
    if one == other {
        return length;
    }
    let same = one.chunks_exact(STEP).zip(other.chunks_exact(STEP)).take_while(|(one, other)| one == other);
    let start = same.count() * STEP;
    let rest = one[start..].iter().zip(&other[start..]);
    start + rest.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    impl Payload for () {
        fn is_idle(&self) -> bool {
            true
        }
    }

    /// So many texts that matter end at a node, which then stays.
    #[derive(Debug, Default)]
    struct Stays(usize);

    impl Payload for Stays {
        fn is_idle(&self) -> bool {
            self.0 == 0
        }
    }

    #[derive(Default)]
    struct Kept {
        first: u64,
        texts: VecDeque<Vec<u8>>,
    }

    impl Texts for Kept {
        fn text(&self, number: u64) -> &[u8] {
            &self.texts[(number - self.first) as usize]
        }
    }

    impl Kept {
        fn push<P: Payload>(&mut self, tree: &mut Prefixes<P>, text: &[u8], most: usize) -> NodeId {
            let number = self.first + self.texts.len() as u64;
            let node = tree.insert(self, number, text);
            self.texts.push_back(text.to_vec());
            if self.texts.len() > most {
                self.pop(tree);
            }
            node
        }

        fn pop<P: Payload>(&mut self, tree: &mut Prefixes<P>) {
            if let Some(oldest) = self.texts.front() {
                tree.forget(self.first, oldest);
                self.texts.pop_front();
                self.first += 1;
            }
        }

        /// The rule, naively.
        fn newest(&self, prefix: &[u8]) -> Option<u64> {
            let found = self.texts.iter().rposition(|text| text.starts_with(prefix))?;
            Some(self.first + found as u64)
        }
    }

    #[test]
    fn the_newest_text_that_begins_so_is_found() {
        let (mut tree, mut kept) = (Prefixes::<()>::new(), Kept::default());
        for text in ["GET /a", "GET /abc", "GET /ab", "POST /", "GET /a", "G"] {
            kept.push(&mut tree, text.as_bytes(), 10);
        }
        for (prefix, expected) in [
            ("GET /a", Some(4)),
            ("GET /ab", Some(2)),
            ("GET /abc", Some(1)),
            ("GET /abcd", None),
            ("G", Some(5)),
            ("GE", Some(4)),
            ("P", Some(3)),
            ("x", None),
        ] {
            assert_eq!(tree.newest(&kept, prefix.as_bytes()), expected, "{prefix}");
        }
    }

    #[test]
    fn a_tree_that_has_forgotten_everything_is_empty() {
        let (mut tree, mut kept) = (Prefixes::<()>::new(), Kept::default());
        for number in 0..1000_u32 {
            kept.push(&mut tree, format!("GET /{}", number.wrapping_mul(2_654_435_761)).as_bytes(), 5000);
        }
        assert!(tree.len() <= 2000);
        while !kept.texts.is_empty() {
            kept.pop(&mut tree);
        }
        assert_eq!(tree.len(), 1);
        assert_eq!(tree.newest(&kept, b"GET"), None);
    }

    #[test]
    fn texts_that_come_again_and_again_leave_no_nodes_behind() {
        let (mut tree, mut kept) = (Prefixes::<()>::new(), Kept::default());
        let long = [b'a'; 400];
        for length in 0..400 {
            kept.push(&mut tree, &long, 20);
            kept.push(&mut tree, &[&long[..length], b"b"].concat(), 20);
            assert!(tree.len() <= 41, "{} nodes", tree.len());
        }
    }

    fn texts() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let short = prop::collection::vec(prop::sample::select(&b"abc"[..]), 1..7);
        let wide = prop::collection::vec(prop::sample::select(&b"abcdefghijkl"[..]), 1..3);
        let long = (0_usize..120, prop::sample::select(&b"abc"[..]))
            .prop_map(|(length, last)| [&[b'a'; 120][..length], &[last]].concat());
        prop::collection::vec(prop_oneof![4 => short, 2 => wide, 2 => long], 1..150)
    }

    proptest! {
        #[test]
        fn the_tree_finds_what_a_scan_finds(texts in texts(), most in 1_usize..40) {
            let (mut tree, mut kept) = (Prefixes::<()>::new(), Kept::default());
            for text in &texts {
                kept.push(&mut tree, text, most);
                prop_assert!(tree.len() <= 2 * kept.texts.len() + 1);
                for prefix in &texts {
                    prop_assert_eq!(tree.newest(&kept, prefix), kept.newest(prefix));
                }
            }
            while !kept.texts.is_empty() {
                kept.pop(&mut tree);
            }
            prop_assert_eq!(tree.len(), 1);
        }

        #[test]
        fn a_node_with_something_at_it_stays_where_it_is(texts in texts(), most in 1_usize..40) {
            let (mut tree, mut kept) = (Prefixes::<Stays>::new(), Kept::default());
            for (number, text) in texts.iter().enumerate() {
                let node = kept.push(&mut tree, text, usize::MAX);
                if number % 3 == 0 {
                    tree.payload_mut(node).0 += 1;
                }
                if kept.texts.len() > most {
                    let oldest = kept.texts.front().unwrap();
                    if kept.first % 3 == 0 {
                        let end = tree.end_of(oldest).unwrap();
                        tree.payload_mut(end).0 -= 1;
                    }
                    kept.pop(&mut tree);
                }
                prop_assert_eq!(tree.newest(&kept, text), kept.newest(text));
                let stay = kept.texts.iter().zip(kept.first..).filter(|(_, number)| number % 3 == 0);
                for (text, _) in stay {
                    let end = tree.end_of(text);
                    prop_assert!(end.is_some_and(|node| tree.payload(node).0 > 0));
                }
            }
        }

        #[test]
        fn beginnings_are_as_long_as_they_are(one in "[ab]{0,80}", other in "[ab]{0,80}", same in "[ab]{0,80}") {
            let (one, other) = ([same.as_bytes(), one.as_bytes()].concat(), [same.as_bytes(), other.as_bytes()].concat());
            let expected = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
            prop_assert_eq!(common_prefix(&one, &other), expected);
        }
    }
}
