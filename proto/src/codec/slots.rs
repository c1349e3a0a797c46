//! What is looked up again, kept where its number falls; what falls on the same place takes it over.

/// Places to begin with.
const FIRST: usize = 4;
/// How many times more there are when two meet.
const GROWTH: usize = 4;

/// Values by a number, forgotten at will. Takes no memory until something is kept, and little for a few: most
/// streams have few conversations.
#[derive(Debug)]
pub(super) struct Slots<T> {
    places: Vec<Option<T>>,
    most: usize,
}

impl<T> Slots<T> {
    /// At most so many values, a power of four.
    pub(super) fn of(most: usize) -> Self {
        Self { places: Vec::new(), most }
    }

    /// What was kept last where `number` falls.
    pub(super) fn get(&self, number: u64) -> Option<&T> {
        self.places.get(self.place(number))?.as_ref()
    }

    /// Keeps a value in place of what is there.
    pub(super) fn put(&mut self, number: u64, value: T) {
        let meets = self.places.get(self.place(number)).is_none_or(Option::is_some);
        if meets && self.places.len() < self.most {
            let more = (self.places.len() * GROWTH).clamp(FIRST, self.most);
            self.places.clear();
            self.places.resize_with(more, || None);
        }
        let place = self.place(number);
        self.places[place] = Some(value);
    }

    fn place(&self, number: u64) -> usize {
        let places = self.places.len().max(1) as u64;
        usize::try_from(number % places).expect("smaller than the number of places")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_last_is_found_and_memory_follows_what_meets() {
        let mut slots = Slots::of(64);
        assert_eq!(slots.get(0), None);
        assert_eq!(slots.places.capacity(), 0);
        slots.put(1, "one");
        slots.put(2, "two");
        assert_eq!((slots.get(1), slots.get(2), slots.get(3)), (Some(&"one"), Some(&"two"), None));
        assert_eq!(slots.places.len(), 4);
        // 5 falls where 1 is: there are more places, and what was known is not.
        slots.put(5, "five");
        assert_eq!((slots.places.len(), slots.get(5), slots.get(1)), (16, Some(&"five"), None));
    }

    #[test]
    fn there_are_never_more_places_than_were_asked_for() {
        let mut slots = Slots::of(64);
        for number in 0..1000 {
            slots.put(number, number);
            assert_eq!(slots.get(number), Some(&number));
        }
        assert_eq!(slots.places.len(), 64);
    }
}
