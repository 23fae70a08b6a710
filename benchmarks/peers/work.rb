# The Ruby worker: gem install faktory_worker_ruby
# The gem's own command, by its path: ours has the same name.
# /path/of/gems/bin/faktory-worker -r work.rb -q QUEUE -c CONCURRENCY
require "logger"

Faktory.logger.level = Logger::ERROR

class Empty
  include Faktory::Job

  def perform
  end
end
