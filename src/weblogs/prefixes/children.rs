//! The children of a node, by the byte at which they part.

/// So many stand in the node itself, which then fills one line of the processor's caches.
const FEW: usize = 4;

/// Node numbers by bytes.
#[derive(Debug, Default)]
pub(super) struct Children {
    bytes: [u8; FEW],
    count: u8,
    nodes: [u32; FEW],
    /// Those for which there is no more room, in the order of their bytes. The oldest are most likely in the node, and a
    /// long chain of nodes goes by its oldest child.
    more: Option<Box<More>>,
}

#[derive(Debug)]
struct More(Vec<(u8, u32)>);

impl Children {
    pub(super) fn get(&self, byte: u8) -> Option<u32> {
        if let Some(at) = self.place(byte) {
            return Some(self.nodes[at]);
        }
        let more = self.more.as_ref()?;
        more.find(byte).ok().map(|at| more.0[at].1)
    }

    /// Puts a child where there was none, or another.
    pub(super) fn set(&mut self, byte: u8, node: u32) {
        if let Some(at) = self.place(byte) {
            self.nodes[at] = node;
        } else if self.few() < FEW {
            self.push(byte, node);
        } else {
            let more = self.more.get_or_insert_with(|| Box::new(More(Vec::new())));
            match more.find(byte) {
                Ok(at) => more.0[at].1 = node,
                Err(at) => more.0.insert(at, (byte, node)),
            }
        }
    }

    pub(super) fn remove(&mut self, byte: u8) {
        if let Some(at) = self.place(byte) {
            let last = self.few() - 1;
            self.bytes[at] = self.bytes[last];
            self.nodes[at] = self.nodes[last];
            self.count -= 1;
            if let Some((byte, node)) = self.more.as_mut().and_then(|more| more.0.pop()) {
                self.push(byte, node);
            }
        } else if let Some(more) = &mut self.more
            && let Ok(at) = more.find(byte)
        {
            more.0.remove(at);
        }
        self.more.take_if(|more| more.0.is_empty());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The child, if there is just one.
    pub(super) fn only(&self) -> Option<u32> {
        (self.count == 1).then_some(self.nodes[0])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let more = self.more.iter().flat_map(|more| more.0.iter().map(|(_, node)| *node));
        self.nodes[..self.few()].iter().copied().chain(more)
    }

    /// Where in the node a child is; more are elsewhere only while there is no room here.
    fn place(&self, byte: u8) -> Option<usize> {
        (0..self.few()).find(|&at| self.bytes[at] == byte)
    }

    fn push(&mut self, byte: u8, node: u32) {
        let at = self.few();
        self.bytes[at] = byte;
        self.nodes[at] = node;
        self.count += 1;
    }

    fn few(&self) -> usize {
        usize::from(self.count)
    }
}

impl More {
    fn find(&self, byte: u8) -> Result<usize, usize> {
        self.0.binary_search_by_key(&byte, |(byte, _)| *byte)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn children_are_a_map(steps in prop::collection::vec((any::<bool>(), 0_u8..12, 0_u32..1000), 0..200)) {
            let (mut children, mut map) = (Children::default(), BTreeMap::new());
            for (put, byte, node) in steps {
                if put {
                    children.set(byte, node);
                    map.insert(byte, node);
                } else {
                    children.remove(byte);
                    map.remove(&byte);
                }
                for byte in 0..12 {
                    prop_assert_eq!(children.get(byte), map.get(&byte).copied());
                }
                let mut all: Vec<_> = children.iter().collect();
                all.sort_unstable();
                let mut expected: Vec<_> = map.values().copied().collect();
                expected.sort_unstable();
                prop_assert_eq!(all, expected);
                prop_assert_eq!(children.is_empty(), map.is_empty());
                prop_assert_eq!(children.only().is_some(), map.len() == 1);
            }
        }
    }
}
