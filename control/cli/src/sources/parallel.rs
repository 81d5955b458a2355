//! The same walk on several threads, for file systems where every look takes a while.

use std::ffi::OsString;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::walk::{Finder, Looked, Open, enter};
use super::{Plan, Walked};

/// Names of one directory that one thread looks at, one after the other; those of a larger directory are shared out.
pub(crate) const NAMES_AT_ONCE: usize = 256;

/// Something to be done.
enum Task {
    /// A source that was named, by its number.
    Root(usize),
    /// A directory to be read.
    Directory(Open),
    /// Some names of a directory.
    Names(Arc<Open>, Vec<OsString>),
}

/// What is to be done; the last first, so that it stays as deep as the tree and not as wide.
#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    /// Threads that may add more.
    busy: usize,
    is_over: bool,
}

/// The threads of one walk.
struct Walkers<'a, E> {
    finder: Finder,
    queue: Mutex<Queue>,
    changed: Condvar,
    each: &'a E,
}

/// Walks everything on so many threads, this one among them, and tells what is found, at most [`NAMES_AT_ONCE`] things at once, until `each`
/// returns `false`. Files of a directory come in the order of their names (as many at a time), directories in any order. Two sources that may get the same name are walked by one
/// thread, for the first keeps it. If no more threads can be started, fewer do.
pub(crate) fn walk_with(plan: &Arc<Plan>, threads: usize, each: &(impl Fn(Vec<Walked>) -> bool + Sync)) {
    if plan.may_clash || threads < 2 {
        let mut walk = plan.walk();
        loop {
            let some: Vec<Walked> = walk.by_ref().take(NAMES_AT_ONCE).collect();
            if some.is_empty() || !each(some) {
                return;
            }
        }
    }
    let tasks = (0..plan.roots.len()).rev().map(Task::Root).collect();
    let queue = Mutex::new(Queue { tasks, ..Queue::default() });
    let walkers = Walkers { finder: Finder::new(Arc::clone(plan)), queue, changed: Condvar::new(), each };
    thread::scope(|scope| {
        for number in 1..threads {
            let started = thread::Builder::new().name(format!("source-walk-{number}")).spawn_scoped(scope, || walkers.run());
            if started.is_err() {
                break;
            }
        }
        walkers.run();
    });
}

/// Notes when it is dropped that a task has ended. By a panic, too: the other threads must not wait for this one.
struct Ended<'a, 'e, E: Fn(Vec<Walked>) -> bool + Sync> {
    walkers: &'a Walkers<'e, E>,
    more: Vec<Task>,
    goes_on: bool,
}

impl<E: Fn(Vec<Walked>) -> bool + Sync> Drop for Ended<'_, '_, E> {
    fn drop(&mut self) {
        let mut queue = self.walkers.queue();
        queue.busy -= 1;
        queue.is_over |= !self.goes_on;
        queue.tasks.extend(self.more.drain(..).rev());
        drop(queue);
        self.walkers.changed.notify_all();
    }
}

impl<E: Fn(Vec<Walked>) -> bool + Sync> Walkers<'_, E> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some(task) = self.next() {
            // In the order in which they are to be done.
            let (mut more, mut found) = (Vec::new(), Vec::new());
            let mut ended = Ended { walkers: self, more: Vec::new(), goes_on: false };
            self.work(task, &mut more, &mut found);
            ended.goes_on = found.is_empty() || (self.each)(found);
            ended.more = more;
        }
    }

    /// Waits for something to do; `None` at the end.
    fn next(&self) -> Option<Task> {
        let mut queue = self.queue();
        loop {
            if queue.is_over {
                return None;
            }
            if let Some(task) = queue.tasks.pop() {
                queue.busy += 1;
                return Some(task);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, task: Task, more: &mut Vec<Task>, found: &mut Vec<Walked>) {
        let mut take = |looked, more: &mut Vec<Task>| match looked {
            Looked::Found(walked) => found.push(walked),
            Looked::Directory(directory) => more.push(Task::Directory(directory)),
            Looked::Nothing => {}
        };
        match task {
            Task::Root(number) => {
                if let Some(root) = self.finder.plan.roots.get(number) {
                    take(self.finder.root(root), more);
                }
            }
            Task::Directory(directory) => match enter(&directory.path) {
                Ok(names) => {
                    let (directory, mut names) = (Arc::new(directory), names.into_iter());
                    loop {
                        let some: Vec<OsString> = names.by_ref().take(NAMES_AT_ONCE).collect();
                        if some.is_empty() {
                            break;
                        }
                        more.push(Task::Names(Arc::clone(&directory), some));
                    }
                }
                Err(error) => take(Looked::Found(Walked::Failed(error)), more),
            },
            Task::Names(directory, names) => names.iter().for_each(|name| take(self.finder.entry(&directory, name), more)),
        }
    }
}
